"""Recovery's memory, in Postgres, outside the fleet.

Leases with fencing tokens, incidents, faults, flags, releases, comparisons.

It is Postgres and neither Airflow's tables nor the fleet itself, because it has to outlive both. Every write
of a recoverer carries its fencing token and is refused when the token is no longer the newest; every write
can be made twice, so any step may be killed and run again.

    store = Store(dsn)
    store.migrate()
    lease = store.acquire_lease("kafka-2", holder="watch/run-7", ttl_s=60)
    incident = store.open_incident("kafka-2", lease.token, ...)

Times are those of the database, UTC: one clock for all recoverers. Methods raise StoreUnavailable when the
database can't be reached, StaleTokenError for a stale token, LeaseHeld and GuardRefused as they say.
"""

from kintsugi.db.database import StoreUnavailable
from kintsugi.db.flags import Desired, Flags, Maintenance, RecordedFault
from kintsugi.db.incidents import Incidents
from kintsugi.db.leases import Lease, Leases
from kintsugi.db.releases import Deployment, ReleaseRecord, Releases
from kintsugi.db.replica_repairs import ReplicaRepairs

__all__ = [
    "Deployment",
    "Desired",
    "Lease",
    "Maintenance",
    "RecordedFault",
    "ReleaseRecord",
    "Store",
    "StoreUnavailable",
]


class Store(Leases, Incidents, Flags, Releases, ReplicaRepairs):
    """All of the store behind one DSN; cheap to make, safe to share between threads and processes.

    ``dsn``: a libpq connection string or URL of the database ``kintsugi``.
    """

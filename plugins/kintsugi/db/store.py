"""The state of the recovery, in Postgres, outside the fleet.

Leases with fencing tokens, incidents, faults, flags, releases, data repairs.

The state is in a Postgres database of its own, because it has to survive the fleet and Airflow's tables. Every write of
a recovery carries its fencing token and is refused if the token is no longer the newest. Every write can be repeated,
so any step may be killed and run again.

    store = Store(dsn)
    store.migrate()
    lease = store.acquire_lease("kafka-2", holder="watch/run-7", ttl_s=60)
    incident = store.open_incident("kafka-2", lease.token, ...)

Times are those of the database, UTC: one clock for all recoveries. Methods raise StoreUnavailable if the
database can't be reached, StaleTokenError for a stale token, and LeaseHeld and GuardRefused as documented.
"""

from kintsugi.db.attempts import Attempts
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


class Store(Leases, Incidents, Attempts, Flags, Releases, ReplicaRepairs):
    """The whole database behind one DSN; cheap to create, safe to share between threads and processes.

    ``dsn``: a libpq connection string or URL of the database ``kintsugi``.
    """

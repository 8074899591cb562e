"""A Cassandra session for a cluster in which nodes die: shared by the stream, the accounts and the probes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import CASSANDRA_PORT, KEYSPACE

if TYPE_CHECKING:
    from cassandra.cluster import Session

CONNECT_SECONDS = 2.0
REQUEST_SECONDS = 10.0
RECONNECT_SECONDS = 2.0
SPECULATE_SECONDS = 0.5


def connect(
    contact_points: list[str],
    *,
    keyspace: str | None = KEYSPACE,
    port: int = CASSANDRA_PORT,
    request_timeout: float = REQUEST_SECONDS,
) -> Session:
    """A session at LOCAL_QUORUM that survives the death of any node.

    Close it by ``session.cluster.shutdown()``.     What makes it survive: requests go to a replica and,
    after half a second of silence, to the next (only statements marked idempotent); a silent node's
    connections are given up after 5 s by heartbeats; a dead node is tried again at least every 2 s.
    ``request_timeout`` is in seconds. Raises KintsugiError when no contact point answers.
    """
    from cassandra import ConsistencyLevel
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
    from cassandra.policies import (
        ConstantSpeculativeExecutionPolicy,
        DCAwareRoundRobinPolicy,
        ExponentialReconnectionPolicy,
        TokenAwarePolicy,
    )

    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        request_timeout=request_timeout,
        speculative_execution_policy=ConstantSpeculativeExecutionPolicy(SPECULATE_SECONDS, 2),
    )
    cluster = Cluster(
        contact_points,
        port=port,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=CONNECT_SECONDS,
        control_connection_timeout=CONNECT_SECONDS,
        reconnection_policy=ExponentialReconnectionPolicy(0.25, RECONNECT_SECONDS, max_attempts=None),
        idle_heartbeat_interval=3,
        idle_heartbeat_timeout=2,
        compression=False,  # on loopback and in a rack, CPU is dearer than bytes
        status_event_refresh_window=0,
        topology_event_refresh_window=1,
    )
    try:
        return cluster.connect(keyspace)
    except NoHostAvailable as error:
        cluster.shutdown()
        reasons = "; ".join(f"{host}: {reason}" for host, reason in error.errors.items()) or str(error)
        raise KintsugiError(
            f"no Cassandra node of {', '.join(contact_points)} takes connections on port {port} ({reasons}); "
            "look at the health of the cassandra nodes"
        ) from error
    except Exception:
        cluster.shutdown()
        raise


@contextmanager
def connected(contact_points: list[str], *, keyspace: str | None = KEYSPACE) -> Iterator[Session]:
    """`connect` for a ``with`` block: the cluster is shut down at its end."""
    session = connect(contact_points, keyspace=keyspace)
    try:
        yield session
    finally:
        session.cluster.shutdown()

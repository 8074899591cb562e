"""A Cassandra session for a cluster in which nodes die: shared by the stream, the accounts and the probes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import CASSANDRA_PORT, KEYSPACE

if TYPE_CHECKING:
    from cassandra.cluster import Cluster, Session

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
    """A session at LOCAL_QUORUM that survives the death of any node, as `tuned_cluster` makes it.

    Close it by ``session.cluster.shutdown()``. ``request_timeout`` is in seconds. Raises KintsugiError when no contact
    point answers.
    """
    return open_session(tuned_cluster(contact_points, port=port, request_timeout=request_timeout), keyspace)


def tuned_cluster(
    contact_points: list[str],
    *,
    port: int = CASSANDRA_PORT,
    request_timeout: float = REQUEST_SECONDS,
    **options: Any,
) -> Cluster:
    """A cluster of the driver, not connected yet, whose sessions survive the death of any node.

    What makes them survive: requests go to a replica and, after half a second of silence, to the next (only statements
    marked idempotent); a silent node's connections are given up after 5 s by heartbeats; a dead node is tried again at
    least every 2 s. ``options``: further arguments of the driver's ``Cluster``, as ``auth_provider``.
    """
    from cassandra import ConsistencyLevel
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
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
    return Cluster(
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
        **options,
    )


def open_session(cluster: Cluster, keyspace: str | None) -> Session:
    """Connect ``cluster``. Raises KintsugiError when no contact point answers; the cluster is shut down then."""
    from cassandra.cluster import NoHostAvailable

    try:
        return cluster.connect(keyspace)
    except NoHostAvailable as error:
        cluster.shutdown()
        reasons = "; ".join(f"{host}: {reason}" for host, reason in error.errors.items()) or str(error)
        raise KintsugiError(
            f"no Cassandra node of {', '.join(cluster.contact_points)} takes connections on port {cluster.port} "
            f"({reasons}); look at the health of the cassandra nodes"
        ) from error
    except Exception:
        cluster.shutdown()
        raise


@contextmanager
def connected(contact_points: list[str], *, keyspace: str | None = KEYSPACE) -> Iterator[Session]:
    """`connect` for a ``with`` block: the cluster is shut down at its end."""
    with shut_down_after(connect(contact_points, keyspace=keyspace)) as session:
        yield session


@contextmanager
def shut_down_after(session: Session) -> Iterator[Session]:
    """A ``with`` block with this session; its cluster is shut down at the end of the block."""
    try:
        yield session
    finally:
        session.cluster.shutdown()

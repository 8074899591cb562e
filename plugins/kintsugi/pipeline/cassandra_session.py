"""A Cassandra session for a cluster in which nodes die: for the stream, the reconciliation and the probes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import cassandra_options
from kintsugi.core.connections import CASSANDRA_CONNECTION, has_hook
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.settings import CASSANDRA_PORT, KEYSPACE, Settings

if TYPE_CHECKING:
    from cassandra.cluster import Cluster, Session

CONNECT_SECONDS = 2.0
REQUEST_SECONDS = 10.0
RECONNECT_SECONDS = 2.0
SPECULATE_SECONDS = 0.5


def installation_session(settings: Settings, principal: Principal) -> Session:
    """Connect to the installation's own Cassandra: inside Airflow by CassandraHook, elsewhere by the fleet file.

    The hook uses the connection ``kintsugi_cassandra``. Close the session by ``session.cluster.shutdown()``. Raises
    KintsugiError when no node answers.
    """
    if has_hook(CASSANDRA_CONNECTION):
        from kintsugi.pipeline.cassandra_hook import TunedCassandraHook  # a heavy library: Airflow

        return TunedCassandraHook(principal=principal).get_conn()
    return connect_session([node.address for node in settings.fleet.of(Role.CASSANDRA)], principal)


def connect_session(
    contact_points: list[str],
    principal: Principal = Principal.STREAM,
    *,
    keyspace: str | None = KEYSPACE,
    port: int = CASSANDRA_PORT,
    request_timeout: float = REQUEST_SECONDS,
) -> Session:
    """Connect a session at LOCAL_QUORUM that survives the death of any node, by `tuned_cluster`.

    Close it by ``session.cluster.shutdown()``. ``request_timeout`` is in seconds. Raises KintsugiError when no contact
    point answers.
    """
    options = cassandra_options(principal)
    return open_session(
        tuned_cluster(contact_points, port=port, request_timeout=request_timeout, **options), keyspace
    )


def tuned_cluster(
    contact_points: list[str],
    *,
    port: int = CASSANDRA_PORT,
    request_timeout: float = REQUEST_SECONDS,
    **options: Any,
) -> Cluster:
    """Return a cluster of the driver, not connected yet, whose sessions survive the death of any node.

    1. A request goes to one replica and, after half a second without an answer, to the next one. That holds only for
       statements that are marked idempotent.
    2. Heartbeats close the connections to a silent node after 5 s.
    3. The driver connects to a dead node again at least every 2 s.

    ``options``: further arguments of the driver's ``Cluster``, such as ``auth_provider``.
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
        compression=False,  # on loopback and in a rack, processor time costs more than bandwidth
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
        # Reasons by host, or the addresses alone if a node answered once and then no more.
        known = error.errors if isinstance(error.errors, dict) else {}
        reasons = "; ".join(f"{host}: {reason}" for host, reason in known.items()) or str(error)
        raise KintsugiError(
            f"no Cassandra node of {', '.join(cluster.contact_points)} accepts connections on port {cluster.port} "
            f"({reasons}); see the Cassandra nodes in `make status`"
        ) from error
    except Exception:
        cluster.shutdown()
        raise


@contextmanager
def session_scope(
    contact_points: list[str],
    principal: Principal = Principal.STREAM,
    *,
    keyspace: str | None = KEYSPACE,
) -> Iterator[Session]:
    """Connect a session for a ``with`` block; its cluster is shut down at the end of the block."""
    with shut_down_after(connect_session(contact_points, principal, keyspace=keyspace)) as session:
        yield session


@contextmanager
def shut_down_after(session: Session) -> Iterator[Session]:
    """Use this session in a ``with`` block; its cluster is shut down at the end of the block."""
    try:
        yield session
    finally:
        session.cluster.shutdown()

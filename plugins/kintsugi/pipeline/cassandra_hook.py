"""Airflow's CassandraHook for a cluster in which nodes die."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.cassandra.hooks.cassandra import CassandraHook

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import cassandra_options
from kintsugi.core.connections import CASSANDRA_CONNECTION
from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.cassandra_session import open_session, tuned_cluster

if TYPE_CHECKING:
    from cassandra.cluster import Session


class TunedCassandraHook(CassandraHook):
    """A CassandraHook whose sessions read at LOCAL_QUORUM and survive the death of any node.

    The provider's hook reads the connection: hosts, port, login, TLS, protocol. It passes a load balancing policy to
    the driver, and the driver then refuses execution profiles. So its cluster, which is not connected yet, is replaced
    by one of `tuned_cluster` with the fields of the connection. A ``load_balancing_policy`` in the connection is
    ignored. Where the fleet has ``mutual_tls``, it connects as ``principal``.
    """

    session: Any  # the parent declares it as None only

    def __init__(
        self, cassandra_conn_id: str = CASSANDRA_CONNECTION, *, principal: Principal = Principal.PAGE
    ) -> None:
        super().__init__(cassandra_conn_id)
        original = self.cluster
        original.shutdown()
        options: dict[str, Any] = cassandra_options(principal)
        if original.auth_provider is not None:  # the login of the connection goes before our own
            options["auth_provider"] = original.auth_provider
        if original.ssl_options is not None:
            options["ssl_options"] = original.ssl_options
        if original.cql_version:
            options["cql_version"] = original.cql_version
        if original._protocol_version_explicit:  # noqa: SLF001 - otherwise the driver negotiates the version
            options["protocol_version"] = original.protocol_version
        self._make_cluster = partial(
            tuned_cluster, list(original.contact_points), port=original.port, **options
        )
        self.cluster = self._make_cluster()
        self.keyspace = self.keyspace or KEYSPACE

    def get_conn(self) -> Session:
        """Return the session, connected at the first call; raises KintsugiError when no node answers.

        It may be called again after that, and after the cluster was shut down.
        """
        if self.cluster.is_shutdown:
            self.cluster = self._make_cluster()
        if self.session is None or self.session.is_shutdown:
            self.session = open_session(self.cluster, self.keyspace)
        session: Session = self.session
        return session

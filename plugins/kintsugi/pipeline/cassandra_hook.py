"""Airflow's CassandraHook for a cluster in which nodes die."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.cassandra.hooks.cassandra import CassandraHook

from kintsugi.core.connections import CASSANDRA_CONNECTION
from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.cassandra_session import open_session, tuned_cluster

if TYPE_CHECKING:
    from cassandra.cluster import Session


class TunedCassandraHook(CassandraHook):
    """A CassandraHook whose sessions read at LOCAL_QUORUM and survive the death of any node.

    The provider's hook reads the connection: hosts, port, login, TLS, protocol. It passes a load balancing policy to
    the driver, and the driver then takes no execution profiles. So its cluster, which is not connected yet, is replaced
    by one of `tuned_cluster` with what the connection said. A ``load_balancing_policy`` in the connection is ignored.
    """

    session: Any  # the parent knows it as None alone

    def __init__(self, cassandra_conn_id: str = CASSANDRA_CONNECTION) -> None:
        super().__init__(cassandra_conn_id)
        given = self.cluster
        given.shutdown()
        options: dict[str, Any] = {"auth_provider": given.auth_provider, "ssl_options": given.ssl_options}
        if given.cql_version:
            options["cql_version"] = given.cql_version
        if given._protocol_version_explicit:  # noqa: SLF001 - without it the driver agrees on one with the nodes
            options["protocol_version"] = given.protocol_version
        self._tuned = partial(tuned_cluster, list(given.contact_points), port=given.port, **options)
        self.cluster = self._tuned()
        self.keyspace = self.keyspace or KEYSPACE

    def get_conn(self) -> Session:
        """The session, connected at the first call. Raises KintsugiError when no node answers; may be called again."""
        if self.cluster.is_shutdown:
            self.cluster = self._tuned()
        if self.session is None or self.session.is_shutdown:
            self.session = open_session(self.cluster, self.keyspace)
        session: Session = self.session
        return session

"""A session of the installation's own Cassandra, wherever its connection is defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kintsugi.core.connections import CASSANDRA_CONNECTION, has_hook
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.pipeline.cassandra_session import connect

if TYPE_CHECKING:
    from cassandra.cluster import Session


def cassandra_session(settings: Settings) -> Session:
    """A session by CassandraHook inside Airflow (connection ``kintsugi_cassandra``), else by the fleet file.

    Close it by ``session.cluster.shutdown()``. Raises KintsugiError when no node answers.
    """
    if has_hook(CASSANDRA_CONNECTION):
        from kintsugi.pipeline.cassandra_hook import TunedCassandraHook  # a heavy library: Airflow

        return TunedCassandraHook().get_conn()
    return connect([node.address for node in settings.fleet.of(Role.CASSANDRA)])

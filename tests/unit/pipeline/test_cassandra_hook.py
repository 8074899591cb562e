"""Airflow's CassandraHook with the driver's settings of this project; sessions are tested on real servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT

from kintsugi.controlplane.airflow_environment import own_connections
from kintsugi.core.certificates import Principal
from kintsugi.core.errors import KintsugiError
from kintsugi.pipeline.cassandra_hook import TunedCassandraHook
from kintsugi.pipeline.cassandra_session import installation_session
from tests.installations import installation

NOBODY = "127.34.250.1"  # an address of this machine where nothing listens


def hook(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> TunedCassandraHook:
    found = {"conn_type": "cassandra", "host": NOBODY, "port": 9042, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_CASSANDRA", json.dumps(found))
    return TunedCassandraHook()


def test_the_cluster_is_the_connections_with_the_settings_of_this_project(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = hook(
        monkeypatch,
        host="127.34.2.1,127.34.2.2",
        port=9043,
        login="reader",
        password="secret",
        extra={"ssl_options": {"ca_certs": "/ca.pem"}, "protocol_version": 4, "cql_version": "3.4.7"},
    )
    cluster = made.get_cluster()
    assert (cluster.contact_points, cluster.port) == (["127.34.2.1", "127.34.2.2"], 9043)
    assert (cluster.auth_provider.username, cluster.ssl_options) == ("reader", {"ca_certs": "/ca.pem"})
    assert (cluster.protocol_version, cluster.cql_version) == (4, "3.4.7")
    profile = cluster.profile_manager.profiles[EXEC_PROFILE_DEFAULT]
    assert profile.consistency_level == ConsistencyLevel.LOCAL_QUORUM
    assert (cluster.connect_timeout, cluster.idle_heartbeat_interval) == (2.0, 3)
    assert made.keyspace == "trades"
    made.shutdown_cluster()


def test_a_hook_whose_nodes_are_away_says_so_and_can_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = hook(monkeypatch)
    for _ in range(2):
        with pytest.raises(KintsugiError, match=f"{NOBODY}.*9042"):
            made.get_conn()


def test_inside_airflow_a_session_is_that_of_the_connection(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = installation(tmp_path, "127.34")
    found = own_connections(settings)["kintsugi_cassandra"] | {"host": NOBODY}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_CASSANDRA", json.dumps(found))
    with pytest.raises(KintsugiError, match=NOBODY):
        installation_session(settings, Principal.PAGE)
    monkeypatch.delenv("AIRFLOW_CONN_KINTSUGI_CASSANDRA")
    with pytest.raises(KintsugiError, match=r"127\.34\.2\.1, 127\.34\.2\.2"):
        installation_session(settings, Principal.PAGE)

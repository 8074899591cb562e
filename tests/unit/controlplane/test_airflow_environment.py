from __future__ import annotations

import importlib.util
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.fleet_simulation.simulated_fleet import write_fleet
from kintsugi.controlplane.airflow_environment import (
    airflow_environment,
    base_environment,
    own_connections,
    write_environment,
)
from kintsugi.core.connections import s3_connection
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import STOCK_AIRFLOW, Settings
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.34")


def test_every_option_is_one_that_airflow_knows(settings: Settings) -> None:
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    assert spec.origin is not None
    known = yaml.safe_load((Path(spec.origin).parent / "config_templates/config.yml").read_text())
    for name in airflow_environment(settings):
        if name.startswith("AIRFLOW__"):
            _, section, option = name.lower().split("__")
            assert option in known[section]["options"], name


def test_connections_lead_to_this_installation(settings: Settings) -> None:
    found = own_connections(settings)
    assert {name for name in found if not name.startswith("kintsugi_s3")} == {
        "kintsugi_store",
        "kintsugi_kafka",
        "kintsugi_cassandra",
        "kintsugi_spark",
    }
    assert found["kintsugi_cassandra"]["host"] == "127.34.2.1,127.34.2.2,127.34.2.3"
    assert found["kintsugi_spark"]["host"] == "spark://127.34.3.1"
    assert "password" not in found["kintsugi_store"]
    assert found["kintsugi_store"]["host"] == str(settings.control / "postgres-socket")
    environment = airflow_environment(settings)
    assert json.loads(environment["AIRFLOW_CONN_KINTSUGI_KAFKA"]) == found["kintsugi_kafka"]


def test_each_purpose_has_a_connection_with_a_key_of_its_own(settings: Settings) -> None:
    found = own_connections(settings)
    by_purpose = {purpose: found[s3_connection(purpose)] for purpose in S3Purpose}
    assert len({connection["password"] for connection in by_purpose.values()}) == len(S3Purpose)
    assert found["kintsugi_s3"] == by_purpose[S3Purpose.MONITOR], "the id of the last version may read only"
    assert {name for name in found if name.startswith("kintsugi_s3")} == {
        "kintsugi_s3",
        *map(s3_connection, S3Purpose),
    }


def test_what_sh_sources_is_what_was_written(tmp_path: Path) -> None:
    written = {"PLAIN": "1", "AWKWARD": """it's "$HOME" `date`\\n & {"json": [1]}""", "EMPTY": ""}
    write_environment(tmp_path / "env", written)
    script = 'set -a; . "$1"; exec python3 -c "import json, os; print(json.dumps(dict(os.environ)))"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", str(tmp_path / "env")], capture_output=True, text=True, check=True
    )
    assert written.items() <= json.loads(done.stdout).items()
    assert (tmp_path / "env").stat().st_mode & 0o777 == 0o600


def test_the_users_credentials_and_proxies_are_not_inherited(settings: Settings) -> None:
    shell = {
        "PATH": "/usr/bin",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HTTPS_PROXY": "http://proxy",
        "AIRFLOW__CORE__EXECUTOR": "other",
        "KINTSUGI_ISOLATION": "pdeathsig",
    }
    environment = base_environment(settings, shell)
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert "HTTPS_PROXY" not in environment
    assert "AIRFLOW__CORE__EXECUTOR" not in environment
    assert environment["KINTSUGI_ISOLATION"] == "pdeathsig"
    assert environment["KINTSUGI_STATE"] == str(settings.state)
    assert "/usr/bin" in environment["PATH"].split(":")


def test_what_the_user_names_is_inherited_after_all_but_never_instead_of_our_own(settings: Settings) -> None:
    shell = {
        "PATH": "/usr/bin",
        "HTTPS_PROXY": "http://proxy",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PYTHONPATH": "/elsewhere",
        "KINTSUGI_INHERIT": "HTTPS_PROXY,http_proxy,PYTHONPATH",
    }
    environment = base_environment(settings, shell)
    assert environment["HTTPS_PROXY"] == "http://proxy"
    assert "http_proxy" not in environment
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert environment["PYTHONPATH"] == str(settings.repository / "plugins")


def test_users_sign_in_with_our_own_accounts(settings: Settings) -> None:
    environment = airflow_environment(settings, {"KINTSUGI_USERS": "ana:admin,eve:viewer"})
    assert environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] == "ana:admin,eve:viewer"
    module, _, name = environment["AIRFLOW__CORE__AUTH_MANAGER"].rpartition(".")
    source = settings.repository / "plugins" / module.replace(".", "/")
    assert f"class {name}(SimpleAuthManager)" in source.with_suffix(".py").read_text()


def test_an_auth_manager_of_the_user_is_not_overwritten_and_gets_its_own_options_only(
    settings: Settings,
) -> None:
    theirs = {
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__FAB__CONFIG_FILE": "/etc/kintsugi/webserver_config.py",
        "AIRFLOW__KEYCLOAK_AUTH_MANAGER__REALM": "ours",
    }
    environment = airflow_environment(
        settings, {**theirs, "AIRFLOW__CORE__EXECUTOR": "other", "KINTSUGI_USERS": "ana:admin"}
    )
    assert theirs.items() <= environment.items()
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert not [name for name in environment if "SIMPLE_AUTH_MANAGER" in name]


def test_secrets_outlive_a_restart(settings: Settings) -> None:
    assert airflow_environment(settings) == airflow_environment(settings)


def test_stock_airflow_has_its_own_idle_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"
    monkeypatch.delenv(STOCK_AIRFLOW, raising=False)
    assert float(airflow_environment(settings)[name]) > 1
    monkeypatch.setenv(STOCK_AIRFLOW, "1")
    assert float(airflow_environment(settings)[name]) == 1


def test_the_triggerer_has_room_for_the_watch_of_every_node(tmp_path: Path, settings: Settings) -> None:
    def capacity(nodes: int) -> int:
        write_fleet(tmp_path / str(nodes), nodes, mutual_tls=False)
        large = replace(settings, fleet_file=tmp_path / str(nodes) / "fleet.yaml")
        return int(airflow_environment(large)["AIRFLOW__TRIGGERER__CAPACITY"])

    assert capacity(1000) - capacity(10) == 990
    assert capacity(10) >= 210


def test_the_setting_for_stock_airflow_reaches_the_scheduler(settings: Settings) -> None:
    assert base_environment(settings, {STOCK_AIRFLOW: "1"})[STOCK_AIRFLOW] == "1"

"""An Airflow of its own for the DAG tests: a fresh SQLite database, our folders, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kintsugi.controlplane.accounts import apply_accounts
from kintsugi.controlplane.airflow_environment import auth_environment
from kintsugi.core.settings import load_settings
from kintsugi.db.patience import NONE
from kintsugi.operations import context

REPOSITORY = Path(__file__).resolve().parents[2]

# Airflow reads its configuration when it is first imported, so this stands before any import of it.
_HOME = tempfile.TemporaryDirectory(prefix="kintsugi-dags-")
os.environ |= {
    "AIRFLOW_HOME": _HOME.name,
    "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME.name}/airflow.db",
    "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{_HOME.name}/logs",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "KINTSUGI_STATE": f"{_HOME.name}/state",
}
USERS = {"KINTSUGI_USERS": "vera:viewer,olga:operator,otto:operator,anna:admin"}
apply_accounts(load_settings(), USERS)
os.environ |= auth_environment(load_settings(), USERS)


@pytest.fixture(scope="session", autouse=True)
def airflow_database() -> None:
    """Migrate the database once a session, in a process of its own, and make the pools."""
    from kintsugi.controlplane.control_plane import POOLS

    pools = Path(_HOME.name) / "pools.json"
    pools.write_text(
        json.dumps(
            {
                name: {"slots": slots, "description": "", "include_deferred": False}
                for name, slots in POOLS.items()
            }
        )
    )
    for command in (["db", "migrate"], ["pools", "import", str(pools)]):
        subprocess.run(
            [sys.executable, "-m", "airflow", *command], check=True, capture_output=True, timeout=900
        )


@pytest.fixture(scope="session", autouse=True)
def nobody_waits_for_the_store() -> Iterator[None]:
    """No database of ours runs in these tests: a task that asks for it is to fail at once, not after 20 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "TASK", NONE)
        yield


@pytest.fixture(scope="session")
def dag_bag(airflow_database: None) -> object:
    """All DAGs of the project, as the dag-processor loads them."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=str(REPOSITORY / "dags"))

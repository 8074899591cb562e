"""What Airflow shows as the submission of the stream is what the init of the driver's node runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook

from kintsugi.airflow_ext.operators import stream_submission
from kintsugi.airflow_ext.operators.stream_submission import StreamSubmitOperator
from kintsugi.controlplane.airflow_environment import connections
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.operations import context, stream_driver
from kintsugi.pipeline.stream import submission
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = replace(installation(tmp_path, "127.34"), cache=tmp_path / "cache")
    (settings.jars("spark")).mkdir(parents=True)
    for prefix in submission.JARS:
        (settings.jars("spark") / f"{prefix}1.0.jar").touch()
    monkeypatch.setattr(stream_submission, "load_settings", lambda: settings)
    spark = json.dumps(connections(settings)["kintsugi_spark"])
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_SPARK", spark)
    return settings


def parsed(command: list[str]) -> tuple[str, dict[str, str], set[str], list[str]]:
    """The program, its flags, its configuration, and the application with its arguments."""
    at = next(index for index, word in enumerate(command) if word.endswith("stream_trades.py"))
    flags = list(zip(command[1:at:2], command[2:at:2], strict=True))
    configuration = {value for flag, value in flags if flag == "--conf"}
    own = {flag: value for flag, value in flags if flag != "--conf"}
    return Path(command[0]).name, own, configuration, command[at:]


def test_the_operator_shows_what_the_node_runs_and_lets_the_node_run_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []
    build = SparkSubmitHook._build_spark_submit_command

    def building(self: Any, application: str) -> list[str]:
        shown.append(build(self, application))
        return shown[-1]

    monkeypatch.setattr(SparkSubmitHook, "_build_spark_submit_command", building)
    monkeypatch.setattr(context.Context, "from_environment", lambda: "context")
    monkeypatch.setattr(stream_driver, "submit_driver", lambda found: f"started by {found}")
    operator = StreamSubmitOperator(task_id="submit")
    assert operator.execute({}) == "started by context"
    operator.on_kill()

    root = settings.node_root("spark-master-1")
    run = submission.submit_command(
        master="spark://127.34.3.1:7077",
        jars=settings.jars("spark"),
        driver_host="127.34.3.1",
        bootstrap=settings.fleet.endpoints(Role.KAFKA, 9092),
        contact_points=["127.34.2.1", "127.34.2.2", "127.34.2.3"],
        checkpoint=settings.node_volume("spark-master-1") / "data/checkpoint",
        application=root / "lib/spark_apps/stream_trades.py",
        py_files=root / "run/kintsugi.zip",
    )
    assert [parsed(command) for command in shown] == [parsed(run)]


def test_a_dag_file_that_is_parsed_reads_no_jars(settings: Settings) -> None:
    for jar in (settings.jars("spark")).iterdir():
        jar.unlink()
    operator: Any = StreamSubmitOperator(task_id="submit")
    assert operator.name == "stream_trades"
    assert operator.conf["spark.driver.host"] == "127.34.3.1"

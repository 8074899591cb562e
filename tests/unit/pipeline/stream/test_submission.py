from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kintsugi.core.errors import PreflightError
from kintsugi.core.fleet import REPOSITORY
from kintsugi.pipeline.stream import submission

DATA = {"conn_type": "aws", "extra": {"service_config": {"s3": {"bucket_name": "acme"}}}}


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    for prefix in submission.JARS:
        (tmp_path / f"{prefix}1.0.jar").touch()
    return tmp_path


def command(jars: Path) -> list[str]:
    return submission.submit_command(
        master="spark://127.0.0.1:7077", driver_host="127.0.0.2", bootstrap=["a:9092", "b:9092"],
        contact_points=["c", "d"], checkpoint=Path("/volume/checkpoint"), jars=jars,
        application=Path("/app.py"),
        py_files=Path("/k.zip"),
    )  # fmt: skip


def test_the_command_ends_with_the_applications_own_arguments(jars: Path) -> None:
    found = command(jars)
    at = found.index("/app.py")
    assert found[at + 1 :] == [
        "--bootstrap", "a:9092,b:9092", "--contact-points", "c,d", "--checkpoint", "/volume/checkpoint",
        "--trigger-ms", "250",
    ]  # fmt: skip
    assert found[found.index("--jars") + 1].count(",") == len(submission.JARS) - 1
    assert "spark.driver.bindAddress=127.0.0.2" in found


def test_exactly_one_executor_of_the_stream_and_one_of_a_batch_job_fit_on_a_worker() -> None:
    worker, executor, batch = (
        int(memory.removesuffix("m"))
        for memory in (submission.WORKER_MEMORY, submission.EXECUTOR_MEMORY, submission.BATCH_EXECUTOR_MEMORY)
    )
    assert executor + batch <= worker < 2 * executor


def test_a_missing_jar_is_named(jars: Path) -> None:
    (jars / "kafka-clients-1.0.jar").unlink()
    with pytest.raises(PreflightError, match="kafka-clients"):
        command(jars)


def test_a_driver_finds_its_files_with_nothing_but_the_package(tmp_path: Path) -> None:
    """A Spark driver has no checkout: what builds the baselines imported a module that was not in the package."""
    package = submission.write_package(tmp_path / "kintsugi.zip")
    connections = tmp_path / "connections.json"
    connections.write_text(json.dumps({"kintsugi_data": DATA}))
    connections.chmod(0o600)
    code = (
        "import sys; sys.path = [p for p in sys.path if not p.endswith('plugins')]; "
        f"sys.path.insert(0, {str(package)!r}); "
        "from kintsugi.core.connections import data_sources; from kintsugi.core.s3_keys import S3Purpose; "
        "from kintsugi.core.settings import load_settings; "
        "print(*(source.bucket for source in data_sources(load_settings(), S3Purpose.INGEST)))"
    )
    environment = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE")
    } | {
        "KINTSUGI_CONNECTIONS": str(connections),
        "KINTSUGI_STATE": str(tmp_path / "state"),
        "KINTSUGI_FLEET": str(REPOSITORY / "fleet.yaml"),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.stdout.split() == ["kintsugi", "acme"], done.stderr[-2000:]


@pytest.mark.parametrize("application", ["stream_trades", "build_baseline"])
def test_an_application_needs_nothing_of_ours_but_the_package_and_no_control_plane(
    application: str, tmp_path: Path
) -> None:
    package = submission.write_package(tmp_path / "kintsugi.zip")
    code = (
        "import runpy, sys; sys.path = [p for p in sys.path if not p.endswith('plugins')]; "
        f"sys.path.insert(0, {str(package)!r}); "
        "sys.modules.update(dict.fromkeys(('airflow', 'psycopg', 'ansible_runner', 'fastapi', 'docker'))); "
        f"runpy.run_path({str(REPOSITORY / 'spark_apps' / application)!r} + '.py', run_name='application'); "
        "import kintsugi; print(kintsugi.__file__)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.stdout.strip() == f"{package}/kintsugi/__init__.py", done.stderr[-2000:]


def test_every_pattern_of_the_drivers_files_matches_a_file() -> None:
    package = REPOSITORY / "plugins" / "kintsugi"
    patterns = submission.list_driver_files()
    assert [pattern for pattern in patterns if not list(package.glob(pattern))] == []


def test_the_package_is_the_same_bytes_each_time_and_holds_what_executors_import(tmp_path: Path) -> None:
    one, two = (submission.write_package(tmp_path / name).read_bytes() for name in ("one.zip", "two.zip"))
    assert one == two
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {
            "kintsugi/__init__.py",
            "kintsugi/core/settings.py",
            "kintsugi/pipeline/stream/cassandra_sink.py",
        } <= set(archive.namelist())

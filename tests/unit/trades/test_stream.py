from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from kintsugi.errors import PreflightError
from kintsugi.trades import stream


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    for prefix in stream.JARS:
        (tmp_path / f"{prefix}1.0.jar").touch()
    return tmp_path


def command(jars: Path) -> list[str]:
    return stream.submit_command(
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
    assert found[found.index("--jars") + 1].count(",") == len(stream.JARS) - 1
    assert "spark.driver.bindAddress=127.0.0.2" in found


def test_exactly_one_executor_of_the_stream_and_one_of_a_batch_job_fit_on_a_worker() -> None:
    worker, executor, batch = (
        int(memory.removesuffix("m"))
        for memory in (stream.WORKER_MEMORY, stream.EXECUTOR_MEMORY, stream.BATCH_EXECUTOR_MEMORY)
    )
    assert executor + batch <= worker < 2 * executor


def test_a_missing_jar_is_named(jars: Path) -> None:
    (jars / "kafka-clients-1.0.jar").unlink()
    with pytest.raises(PreflightError, match="kafka-clients"):
        command(jars)


def test_the_package_is_the_same_bytes_each_time_and_holds_what_executors_import(tmp_path: Path) -> None:
    one, two = (stream.package(tmp_path / name).read_bytes() for name in ("one.zip", "two.zip"))
    assert one == two
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {"kintsugi/__init__.py", "kintsugi/settings.py", "kintsugi/trades/sink.py"} <= set(
            archive.namelist()
        )

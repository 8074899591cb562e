"""A streaming driver, and the application that builds baselines, on a Spark of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kintsugi.core.settings import load_settings
from kintsugi.pipeline.stream import submission
from kintsugi.sampledata.generator import GeneratedDay
from tests.integration import servers
from tests.integration.pipeline import Pipeline

REPOSITORY = Path(__file__).parents[2]
NET = "127.31.90"


class Driver:
    """A streaming driver on a Spark of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.checkpoint = pipeline.folder / "checkpoint"
        self.log = pipeline.folder / "driver.log"
        self.command = submission.submit_command(
            master="local[1]", driver_host=f"{NET}.4", bootstrap=pipeline.bootstrap,
            contact_points=pipeline.contact_points, checkpoint=self.checkpoint,
            jars=load_settings().jars("spark"),
            application=REPOSITORY / "spark_apps" / "stream_trades.py",
            py_files=submission.write_package(pipeline.folder / "kintsugi.zip"),
        )  # fmt: skip
        self.env = {**os.environ, "SPARK_LOCAL_IP": f"{NET}.4", "PYSPARK_PYTHON": sys.executable}

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as out:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command], stdout=out, stderr=out, env=self.env
            )

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Like `servers.wait_until`; a failure shows the end of the driver's log."""
        try:
            servers.wait_until(condition, seconds, what, interval=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}; the driver said:\n{self.log.read_text()[-6000:]}") from None


def build_baseline(pipeline: Pipeline, driver: Driver, day: GeneratedDay) -> str:
    """Run the application on the day's end-of-day file; returns what it printed."""
    key = f"eod/{day.eod_files[0].name}"
    pipeline.put(key, day.eod_files[0].read_bytes())
    fleet = pipeline.folder / "fleet.yaml"
    nodes = [{"name": "cassandra-1", "role": "cassandra", "address": pipeline.contact_points[0]}]
    plane = {"address": f"{NET}.2", "airflow_port": 1, "postgres_port": 5432, "s3_port": 9000, "log_port": 1}
    document = {"name": "t", "environment": "local", "ssh_port": 1, "control_plane": plane, "nodes": nodes}
    fleet.write_text(json.dumps(document))
    connection = {
        "conn_type": "aws", "login": "kintsugi", "password": "kintsugi-test",
        "extra": {"endpoint_url": pipeline.s3.meta.endpoint_url},
    }  # fmt: skip
    command = [
        driver.command[0], "--master", "local[1]", "--py-files", str(pipeline.folder / "kintsugi.zip"),
        *(f"--conf={name}={value}" for name, value in submission.BATCH_CONFIGURATION.items()),
        f"--conf=spark.driver.host={NET}.4", f"--conf=spark.driver.bindAddress={NET}.4",
        str(REPOSITORY / "spark_apps" / "build_baseline.py"), key,
    ]  # fmt: skip
    env = {
        **driver.env,
        "KINTSUGI_FLEET": str(fleet),
        "AIRFLOW_CONN_KINTSUGI_S3_INGEST": json.dumps(connection),
    }
    done = subprocess.run(command, env=env, check=False, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

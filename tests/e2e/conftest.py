"""One installation for all end-to-end tests: up, ingest, pull a plug, recovered by itself; down at the end.

Real Kafka, Cassandra, Spark, Airflow, Postgres, S3, sshd, Terraform and Ansible, on addresses of their own, with
``mutual_tls: true``. All of them run with every package client and proxy pointing at an address where nobody listens:
a recovery downloads nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import Settings
from tests.installations import blocked_way_out, installation, leads_nowhere, open_directory

TRADES = 8_000
VICTIM = "kafka-3"


class Command:
    """``kintsugi …`` against the test's own installation."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.way_out = blocked_way_out(settings)

    def __call__(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            **self.way_out,
            "KINTSUGI_STATE": str(self.settings.state),
            "KINTSUGI_CACHE": str(self.settings.cache),
            "KINTSUGI_FLEET": str(self.settings.fleet_file),
        }
        program = "benchmarks" if arguments[0] == "demo" else "kintsugi.cli"
        return subprocess.run(
            [sys.executable, "-m", program, *arguments], cwd=REPOSITORY,
            env=environment, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def kintsugi() -> Iterator[Command]:
    with open_directory() as directory, pytest.MonkeyPatch.context() as patch:
        settings = installation(directory, "127.40")
        # What a test asks by itself, it asks with the certificates of this installation.
        patch.setenv("KINTSUGI_STATE", str(settings.state))
        patch.setenv("KINTSUGI_FLEET", str(settings.fleet_file))
        command = Command(settings)
        try:
            yield command
        finally:
            ended = command("down", seconds=180)
        assert ended.returncode == 0, ended.stderr
        assert not command.settings.state.exists()


@pytest.fixture(scope="session")
def report(kintsugi: Command) -> dict[str, Any]:
    """The demo with one victim; what it wrote."""
    assert leads_nowhere()
    path = kintsugi.settings.state.parent / "demo.json"
    done = kintsugi("demo", "--trades", str(TRADES), "--victim", VICTIM, "--report", str(path), seconds=900)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(path.read_text())
    return found

"""Part ``dags``: a private Airflow on a private Postgres, with one watch DAG for each node of the fleet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fleet_simulation.simulated_fleet import installation, write_fleet
from kintsugi.controlplane.airflow_environment import airflow_environment, base_environment
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, Postgres
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.processes import wait_until

_START_S = 30.0


def measure_dags(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the figures of each size; see `benchmarks.fleet_simulation.airflow_run`."""
    with tempfile.TemporaryDirectory(prefix="kintsugi-simulation-") as directory:
        Path(directory).chmod(0o755)  # Postgres runs as another user
        state = Path(directory) / "state"
        state.mkdir(mode=0o755)
        variables = write_fleet(state, sizes[0], mutual_tls=False)
        with installation(variables) as settings:
            postgres = Postgres.of(settings)
            postgres.prepare()
            with _running(postgres):
                environment = _environment(base_environment(settings) | airflow_environment(settings))
                _run(["airflow", "db", "migrate"], environment)
                return [_measure_size(size, state, postgres, environment) for size in sizes]


def _measure_size(
    size: int, state: Path, postgres: Postgres, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Measure one size in a process and a database of its own."""
    import psycopg

    database = f"{AIRFLOW_DATABASE}_{size}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database} TEMPLATE {AIRFLOW_DATABASE}".encode())
    variables = write_fleet(state / str(size), size, mutual_tls=False)
    own = {
        name: value.replace(f"/{AIRFLOW_DATABASE}?", f"/{database}?") if "SQL_ALCHEMY" in name else value
        for name, value in environment.items()
    }
    report = state / f"dags-{size}.json"
    _run(
        ["benchmarks.fleet_simulation.airflow_run", str(report)],
        own | {"KINTSUGI_FLEET": variables["KINTSUGI_FLEET"]},
    )
    figures: dict[str, Any] = json.loads(report.read_text())
    return figures


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    return {**own, "PYTHONPATH": os.pathsep.join((str(REPOSITORY / "plugins"), str(REPOSITORY)))}


def _run(module_and_words: Sequence[str], environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", *module_and_words]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StepFailed(f"{' '.join(module_and_words)} failed: {' | '.join(lines[-5:])}")


@contextmanager
def _running(postgres: Postgres) -> Iterator[None]:
    """Run the server while the block runs."""
    with subprocess.Popen(
        postgres.program().command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            if not wait_until(postgres.accepts, _START_S):
                raise StepFailed(f"Postgres doesn't accept connections within {_START_S:.0f} s")
            postgres.create_databases()
            yield
        finally:
            server.terminate()
            server.wait()

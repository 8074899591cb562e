"""Dumps of the control plane's databases, and a server that runs only while they are restored.

A dump is `pg_dump`'s custom format: one snapshot of one database, compressed, readable by the same and newer versions
of Postgres. The two databases are dumped one after the other. Nothing in one refers to a row of the other.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, STORE_DATABASE, find_binaries
from kintsugi.core.errors import PreflightError, StepFailed
from kintsugi.core.processes import wait_until

if TYPE_CHECKING:
    from kintsugi.controlplane.postgres import Postgres

DATABASES = (AIRFLOW_DATABASE, STORE_DATABASE)
DUMP_S = 3600.0
_LOCK_WAIT = "60s"  # a dump waits no longer for a migration
_ANSWERS_S = 60.0
_ENDS_S = 120.0


def dump_database(server: Postgres, database: str, target: Path) -> None:
    """Dump ``database`` of the running ``server`` into the file ``target`` (0600).

    Raises StepFailed with the last line of `pg_dump`, PreflightError if it isn't installed.
    """
    target.touch(mode=0o600)
    options = ["--format=custom", f"--lock-wait-timeout={_LOCK_WAIT}", f"--file={target}"]
    _run_client("pg_dump", *options, f"--dbname={server.dsn(database)}")


def restore_database(server: Postgres, database: str, source: Path) -> None:
    """Restore the dump ``source`` into the empty ``database`` of ``server``, in one transaction.

    Raises StepFailed with the last line of `pg_restore`.
    """
    options = ["--exit-on-error", "--single-transaction", f"--dbname={server.dsn(database)}"]
    _run_client("pg_restore", *options, str(source))


@contextmanager
def run_server(server: Postgres, log: Path) -> Iterator[None]:
    """Make the cluster of ``server`` with empty databases, and run it during the block, without a supervisor.

    ``log``: the file that gets its output. After the block it has ended. Raises StepFailed if it doesn't start or end.
    """
    server.prepare()
    with log.open("wb") as output:
        process = subprocess.Popen(
            server.program().command,
            cwd="/",
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            if not wait_until(lambda: process.poll() is not None or server.accepts(), _ANSWERS_S):
                raise StepFailed(f"Postgres does not answer after {_ANSWERS_S:.0f} s: see {log}")
            if process.poll() is not None:
                raise StepFailed(f"Postgres has ended with status {process.returncode}: see {log}")
            server.create_databases()
            yield
        finally:
            _end_server(process)


def _end_server(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # its fast shutdown, which writes everything to its files
    try:
        process.wait(_ENDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise StepFailed(
            f"Postgres did not end within {_ENDS_S:.0f} s, so its files are not complete"
        ) from None


def _run_client(program: str, *arguments: str) -> None:
    binaries = find_binaries()
    path = binaries / program if binaries is not None else None
    if path is None or not path.exists():
        raise PreflightError(
            f"{program} is not installed: run `apt-get install postgresql postgresql-client`"
        )
    try:
        done = subprocess.run(
            [str(path), *arguments],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DUMP_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"{program} did not end within {DUMP_S:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise StepFailed(f"{program} failed: {lines[-1]}")

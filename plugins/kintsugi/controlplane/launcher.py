"""The ``airflow`` command, started so that its tasks start fast: ``python -m kintsugi.controlplane.launcher …``.

* Airflow creates millions of long-lived objects while it starts, and Python's default collects garbage at every 700th
  new object. That is a third of the api-server's start (9.4 s → 6.4 s, measured on two cores).
* LocalExecutor forks its workers, and they fork a process for each task. A task need not import what the scheduler has
  imported. That saves over a second of CPU for each of a recovery's dozen steps. Modules are imported only: nothing is
  opened or started here that a fork would share.
* The scheduler is patched (`airflow_patches`), unless a setting asks for stock Airflow.
* It starts only when the api-server listens: a task whose process can't reach it fails before its first line, and
  after a restart of the machine that used up all the retries of an interrupted repair.
* What lies on the way of a recovery goes before everything else on the machine; a task that doesn't steps back to
  the rest when it begins (`task_priority`).
* What reads our database finds its tables, also when the code is newer than the last `make up` (`update_tables`).
* Its workers and their tasks die with it. Forked from it, they hold its connection to Postgres too: when it was killed
  in the middle of a transaction, its locks outlived it, and the next scheduler scheduled nothing, for good.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from kintsugi.controlplane import airflow_patches
from kintsugi.core.connections import store_dsn
from kintsugi.core.process_priority import IN_A_WORKER, go_on_first, raise_priority
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import load_settings
from kintsugi.db.database import Database

PRELOADED = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.bundles.manager",
    "airflow.dag_processing.dagbag",
    "airflow.providers.amazon.aws.hooks.s3",
    "airflow.providers.standard.operators.hitl",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.decorators.branch_python",
    "kintsugi.recovery.actions",
    "kintsugi.recovery.assessment",
    "kintsugi.recovery.report",
    "kintsugi.airflow_ext.recovery_task_group",
    "kintsugi.operations.kafka_voters",
    "kintsugi.operations.verification",
    "kintsugi.operations.verification_cassandra",
    "kintsugi.operations.verification_kafka",
    "kintsugi.releases.rollout_steps",
    "kintsugi.recovery.guard_facts",
    "kintsugi.probes.observe",
    "kintsugi.infra.ansible",
    "kintsugi.infra.terraform",
    "kintsugi.environments.local.node",
    "kintsugi.airflow_ext.sensors.flow_health",
    "kintsugi.airflow_ext.sensors.new_objects",
    "kintsugi.airflow_ext.sensors.node_health",
    "kintsugi.pipeline.synthetic_trade",
    "kintsugi.pipeline.cassandra_hook",
    "kintsugi.pipeline.cassandra_session",
    "kintsugi.pipeline.ingest.ingest_run",
    "ansible_runner",
    "boto3",
    "cassandra.cluster",
    "kafka",
    "psycopg",
    "python_terraform",
)
"""The modules that the steps of a recovery and the ingest need."""

URGENT_COMPONENTS = ("api-server", "scheduler", "triggerer")
"""The components that a recovery waits for between two steps; it doesn't wait for the dag-processor."""

API_WAIT_S = 180.0
PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


def await_api(url: str, seconds: float = API_WAIT_S) -> bool:
    """Wait until something listens at ``url``, for at most ``seconds``; returns whether it does."""
    parts = urlsplit(url)

    def is_listening() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(1)
            return client.connect_ex((parts.hostname, parts.port or 80)) == 0

    return wait_until(is_listening, seconds, pause=0.2)


def update_tables() -> None:
    """Apply our database's migrations; Airflow starts also without them, and what needs a missing table names it."""
    try:
        Database(store_dsn(load_settings())).migrate()
    except Exception as error:  # noqa: BLE001 - recovery starts whatever is wrong with the tables
        log.warning("the tables in Postgres were not updated: %s", error)


def begin_forks_with(*generations: Callable[[], None]) -> None:
    """Let each process that this one forks begin with the first function, and each that those fork with the second.

    Programs that they start (Ansible, Terraform) are not forked by ``os.fork``.
    """
    remaining = list(generations)

    def begin_fork() -> None:
        if remaining:
            remaining.pop(0)()

    os.register_at_fork(after_in_child=begin_fork)


def become_worker() -> None:
    """Let a worker end with the scheduler, in a session of its own: a task then lowers its own priority only."""
    _end_with_parent()
    os.setsid()
    os.environ[IN_A_WORKER] = "1"
    go_on_first()


def become_task() -> None:
    """Let a task end with its worker, and start with raised priority, also after one that lowered it."""
    _end_with_parent()
    go_on_first()


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Run Airflow's own command line with the arguments of this process."""
    gc.set_threshold(50_000, 25, 25)
    if sys.argv[1:2] and sys.argv[1] in URGENT_COMPONENTS:
        raise_priority()
        update_tables()
    is_scheduler = "scheduler" in sys.argv[1:2]
    if is_scheduler:
        airflow_patches.apply_patches()
    from airflow.__main__ import main as airflow_main

    if is_scheduler:
        for module in PRELOADED:
            importlib.import_module(module)
        from airflow.configuration import conf

        await_api(conf.get("core", "execution_api_server_url"))
        begin_forks_with(become_worker, become_task)
    airflow_main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()

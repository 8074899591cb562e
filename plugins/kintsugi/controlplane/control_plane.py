"""The control plane of ``local``: Postgres, S3, the log collector and Airflow under one supervisord.

It is outside the fleet, so no node's failure affects it. A component that dies is started again.
``start_storage`` first (Terraform keeps its state in this Postgres), then ``start_airflow``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.controlplane import accounts
from kintsugi.controlplane.airflow_environment import (
    AIRFLOW_PART,
    AUTH_MANAGER,
    airflow_environment,
    base_environment,
    connection_environment,
    has_own_accounts,
    read_environment,
    write_environment,
)
from kintsugi.controlplane.airflow_keys import JWT_SECRET, key_environment
from kintsugi.controlplane.log_collector import LogCollector
from kintsugi.controlplane.postgres import Postgres
from kintsugi.controlplane.s3proxy import ObjectStore
from kintsugi.core.errors import StepFailed
from kintsugi.core.files import write_private
from kintsugi.core.processes import find_listener, kill_owned, owned_pids, wait_until
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.spark_security import spark_conf_directory, spark_defaults
from kintsugi.core.users import current_actor
from kintsugi.infra.airflow_client import Airflow, read_token, sign_token
from kintsugi.infra.supervisord import Program, Supervisor

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

COLLECTOR = "log-collector"
STORAGE = ("postgres", "s3", COLLECTOR)
AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer")
WATCHDOG = "watchdog"
# The slots of a recovery must be free during a burst of files, and while another recovery only waits for its node.
POOLS = {"recovery": 4, "rejoin": 6, "ingest": 2}

TOKEN_FILE = "KINTSUGI_AIRFLOW_TOKEN_FILE"  # noqa: S105 - the name of a variable
"""Names a file with the token of our own client, where Airflow has an auth manager whose tokens we can't sign."""

_RUN_AIRFLOW = "kintsugi.controlplane.launcher"
_RUN_ENCRYPTION = "kintsugi.controlplane.airflow_encryption"
_RUN_WATCHDOG = "kintsugi.watchdog.watchdog"


@dataclass(frozen=True)
class ControlPlane:
    """The control plane of one installation. Every method may be killed at any moment and repeated."""

    settings: Settings

    @cached_property
    def supervisor(self) -> Supervisor:
        return Supervisor(self.settings.control)

    @cached_property
    def postgres(self) -> Postgres:
        return Postgres.of(self.settings)

    @cached_property
    def objects(self) -> ObjectStore:
        return ObjectStore.of(self.settings)

    @cached_property
    def collector(self) -> LogCollector:
        return LogCollector.of(self.settings)

    @cached_property
    def airflow(self) -> Airflow:
        """Return a client for this Airflow with an administrator's rights, in the name of `users.current_actor`."""
        plane = self.settings.fleet.control_plane
        url = f"http://{plane.address}:{plane.airflow_port}"
        if file := os.environ.get(TOKEN_FILE):
            return Airflow(url, lambda: read_token(Path(file)))
        return Airflow(url, lambda: sign_token(self.settings.secret(JWT_SECRET), current_actor(), "admin"))

    @property
    def environment_file(self) -> Path:
        """Return the path of Airflow's environment, for ``sh`` to source; 0600."""
        return self.settings.control / "airflow.env"

    @property
    def watchdog_file(self) -> Path:
        """Return the path of the watchdog's environment, which has the connections only; 0600."""
        return self.settings.control / "watchdog.env"

    def start_storage(self) -> None:
        """Start Postgres, S3 and the log collector; returns when all answer.

        Raises StepFailed, which names the component and its log, if one doesn't answer within 60 s.
        """
        self._prepare()
        self.supervisor.start(*STORAGE)
        self._await("postgres", self.postgres.accepts)
        self.postgres.create_databases()
        client = self.objects.client(S3Purpose.MONITOR)
        self._await("s3", lambda: self.objects.answers(client))
        plane = self.settings.fleet.control_plane
        self._await(COLLECTOR, lambda: find_listener(plane.address, plane.log_port) is not None)

    def restart_collector(self) -> None:
        """Let the log collector read its certificate and the trusted authorities again; does nothing if it is down."""
        if self.supervisor.answers():
            self.supervisor.stop(COLLECTOR)
            self.supervisor.start(COLLECTOR)

    def renew_collector(self) -> None:
        """Let the log collector know the nodes of the fleet as it is now."""
        self.collector.prepare()
        self.restart_collector()

    def migrate(self) -> None:
        """Migrate Airflow's tables, once for each version of Airflow and each auth manager; needs Postgres."""
        from importlib.metadata import version

        name = f"migrated-{version('apache-airflow')}"
        if not has_own_accounts():
            name += "-" + os.environ[AUTH_MANAGER].rpartition(".")[2]  # it may have tables of its own
        done = self.settings.control / "airflow" / name
        if done.exists():
            return
        self._run_in_airflow("migrate.log", _RUN_AIRFLOW, "db", "migrate")
        done.touch()

    def encrypt_anew(self) -> None:
        """Encrypt with the first Fernet key what Airflow has stored; needs Postgres, and an Airflow that is stopped."""
        self._run_in_airflow("encrypt-anew.log", _RUN_ENCRYPTION)

    def signs_tokens(self) -> bool:
        """Whether our own client can sign its tokens: Airflow that was started has our accounts."""
        return TOKEN_FILE not in os.environ and has_own_accounts(read_environment(self.environment_file))

    def start_airflow(self) -> None:
        """Start Airflow's four components and the watchdog; returns when all are healthy and the pools exist."""
        self.launch_airflow()
        self.await_airflow()
        self.start_watchdog()

    def launch_airflow(self) -> None:
        """Start Airflow's four components without waiting for them; needs the migrated database.

        A component reads its environment at its start. So all that run are restarted if a connection has changed; the
        tasks that run then end, and Airflow starts them again. If only the users have changed, the api-server is.
        """
        users_changed = has_own_accounts() and accounts.apply_accounts(self.settings)
        before, after = read_environment(self.environment_file), airflow_environment(self.settings)
        write_environment(self.environment_file, after)
        if before and _connections_in(before) != _connections_in(after):
            self.stop_airflow()
        elif users_changed:
            self.supervisor.stop("api-server")
        self.supervisor.start(*AIRFLOW)

    def await_airflow(self, seconds: float = 300) -> None:
        """Wait until Airflow is healthy, then create the pools."""
        self._await_healthy(seconds)
        for name, slots in POOLS.items():
            self.airflow.ensure_pool(name, slots)

    def airflow_runs(self) -> bool:
        """Whether a component of Airflow runs, healthy or not. Raises StepFailed if the supervisor is down."""
        if not self.supervisor.answers():
            raise StepFailed("the control plane does not run: run `make up`")
        status = self.status()
        return any(status[name]["state"] in ("STARTING", "RUNNING", "BACKOFF") for name in AIRFLOW)

    def start_airflow_again(self) -> None:
        """Start Airflow and the watchdog after `stop_airflow`, with the present keys and otherwise as they were.

        What the user's shell had at `make up` is in their environment, and need not be in this process.
        """
        environment = read_environment(self.environment_file)
        write_environment(self.environment_file, environment | key_environment(self.settings))
        self.supervisor.start(*AIRFLOW)
        self._await_healthy(300)
        self.supervisor.start(WATCHDOG)

    def _await_healthy(self, seconds: float) -> None:
        if not wait_until(lambda: self.airflow.healthy(), seconds, pause=0.25):
            unhealthy = ", ".join(self.airflow.unhealthy()) or "unknown"
            raise StepFailed(
                f"Airflow is not healthy after {seconds:.0f} s (unhealthy: {unhealthy}); "
                f"see {self.supervisor.logs}/<component>.log"
            )

    def status(self) -> dict[str, dict[str, Any]]:
        """Return each component's state by name, from the supervisor; ``DOWN`` if that does not answer."""
        states = self.supervisor.states()
        names = (*STORAGE, *AIRFLOW, WATCHDOG)
        return {name: states.get(name, {"state": "DOWN", "pid": 0, "started": 0}) for name in names}

    def start_watchdog(self) -> None:
        """Start the watchdog with the user's current connections; needs storage."""
        fresh = connection_environment(self.settings)
        changed = write_environment(self.watchdog_file, fresh)
        if WATCHDOG not in self.supervisor.states():
            # A supervisor that an older version started doesn't have it.
            self.supervisor.add(WATCHDOG, self._programs())
        if changed:
            self.supervisor.stop(WATCHDOG)
        self.supervisor.start(WATCHDOG)

    def stop_airflow(self) -> None:
        """Stop Airflow's components and the processes of its tasks; storage keeps running.

        The watchdog is stopped first, because nobody must be paged for an intended stop.
        """
        if self.supervisor.answers():
            if WATCHDOG in self.supervisor.states():
                self.supervisor.stop(WATCHDOG)
            self.supervisor.stop(*AIRFLOW)
        kill_owned(self.settings.control, AIRFLOW_PART)

    def stop(self) -> None:
        """End every process of the control plane: gracefully if possible, then by SIGKILL."""
        self.stop_airflow()
        if self.supervisor.answers():
            self.supervisor.stop(*STORAGE)
        if self.postgres.data.exists():
            self.postgres.end_orphan()
        kill_owned(self.settings.control)

    def remove(self) -> None:
        """Stop everything and delete the control plane's directory, data included."""
        self.stop()
        shutil.rmtree(self.settings.control, ignore_errors=True)

    def _prepare(self) -> None:
        """Write every configuration and start a supervisor, after orphans of an earlier one have ended."""
        if self.supervisor.answers():
            if self.postgres.socket.exists() and not self.objects.has_one_key:
                self.objects.write_keys()
                return
            # Version 0.1 started it. Its Postgres has no socket, its S3 has one key, and its programs use both.
            self.stop()
        if self.supervisor.pid() is None and owned_pids(self.settings.control):
            self.stop()  # the supervisor was killed, and its children hold the ports
        control = self.settings.control
        control.mkdir(parents=True, exist_ok=True, mode=0o711)  # the user postgres must reach its directory
        control.chmod(0o711)
        for part in (self.postgres, self.objects, self.collector):
            part.prepare()
        self._prepare_airflow()
        self._prepare_spark()
        self.supervisor.write(self._programs())
        self.supervisor.launch(base_environment(self.settings))

    def _prepare_airflow(self) -> None:
        home = self.settings.control / "airflow"
        home.mkdir(exist_ok=True, mode=0o700)
        if has_own_accounts():
            accounts.apply_accounts(self.settings)
        write_environment(self.environment_file, airflow_environment(self.settings))

    def _prepare_spark(self) -> None:
        """Write the configuration of the drivers that run beside Airflow."""
        directory = spark_conf_directory(self.settings)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = (f"{name} {value}\n" for name, value in spark_defaults(self.settings).items())
        write_private(directory / "spark-defaults.conf", "".join(lines))

    def _programs(self) -> list[Program]:
        with_environment = [str(self.settings.repository / "bin/with-env"), str(self.environment_file)]
        arguments: Mapping[str, tuple[str, ...]] = {
            "api-server": (),
            # The api-server reads the tasks' logs from disk, so no log servers on open ports are needed.
            "scheduler": ("--skip-serve-logs",),
            "dag-processor": (),
            "triggerer": ("--skip-serve-logs",),
        }
        return [
            self.postgres.program(),
            self.objects.program(),
            self.collector.program(),
            *(
                Program(name, [*with_environment, sys.executable, "-m", _RUN_AIRFLOW, name, *arguments[name]])
                for name in AIRFLOW
            ),
            Program(
                WATCHDOG,
                [
                    str(self.settings.repository / "bin/with-env"),
                    str(self.watchdog_file),
                    *(sys.executable, "-m", _RUN_WATCHDOG),
                ],
            ),
        ]

    def _run_in_airflow(self, log: str, module: str, *arguments: str) -> None:
        """Run a module in Airflow's environment. Raises StepFailed if it fails."""
        environment = base_environment(self.settings) | airflow_environment(self.settings)
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        (self.supervisor.logs / log).write_text(done.stdout + done.stderr)
        if done.returncode:
            raise StepFailed(f"`{' '.join([module, *arguments])}` failed: see {self.supervisor.logs}/{log}")

    def _await(self, name: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        if not wait_until(ready, seconds, pause=0.05):
            raise StepFailed(
                f"{name} does not answer after {seconds:.0f} s: see {self.supervisor.logs}/{name}.log"
            )


def _connections_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of Airflow's connections."""
    return {name: value for name, value in environment.items() if name.startswith("AIRFLOW_CONN_")}

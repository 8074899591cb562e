"""The Postgres server of the control plane: Airflow's database, and ours with leases, incidents and ledger.

It refuses to run as root, so as root it runs as Debian's ``postgres`` user.

It listens on a unix socket alone, in a directory that only its owner (and root) can enter, and knows its clients by
their user (``peer``). There is no password: on a TCP port, any user of the machine who binds it while the server
restarts would receive what clients send.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.core.connections import postgres_socket, socket_url
from kintsugi.core.errors import PreflightError, StepFailed
from kintsugi.core.process_priority import URGENT
from kintsugi.core.processes import is_running_in, signal_if, wait_until
from kintsugi.infra.supervisord import Program

if TYPE_CHECKING:
    import psycopg

    from kintsugi.core.settings import Settings

USER = "kintsugi"
AIRFLOW_DATABASE = "airflow"
STORE_DATABASE = "kintsugi"
_SERVICE_USER = "postgres"

_CONFIGURATION = """\
listen_addresses = ''
port = {port}                  # a part of the socket's name
unix_socket_directories = '{socket}'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 64MB
work_mem = 4MB
jit = off                      # queries are short: to compile them costs more than to run them
max_wal_size = 256MB
logging_collector = off        # supervisord keeps and bounds the log
log_min_messages = warning
log_checkpoints = off
timezone = 'UTC'
"""
# The operating system's user, and nobody else, is our database user.
_ACCESS = f"local all {USER} peer map=own\n"
_OWN = f'own "{{user}}" {USER}\n'


def find_binaries() -> Path | None:
    """Return the directory of the newest Postgres server programs on this machine, or None."""
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if servers:
        return servers[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


@dataclass(frozen=True, slots=True)
class Postgres:
    """The server of one installation; ``data`` is its cluster directory."""

    socket: Path
    port: int
    data: Path

    @classmethod
    def of(cls, settings: Settings) -> Postgres:
        """Return the server that ``settings`` describes."""
        port = settings.fleet.control_plane.postgres_port
        return cls(postgres_socket(settings), port, settings.control / "postgres")

    def dsn(self, database: str = STORE_DATABASE) -> str:
        """Return ``postgresql://…``, without a password: the server asks the kernel who its client is."""
        return socket_url(self.socket, self.port, database)

    def program(self) -> Program:
        """Return its entry for supervisord; SIGINT is Postgres' fast shutdown."""
        server = [str(_require_binaries() / "postgres"), "-D", str(self.data)]
        # Between two steps of a recovery Airflow waits for it, so its priority is raised too.
        first = ["nice", "-n", str(URGENT)] if os.geteuid() == 0 else []
        command = [*first, *_as_service_user(), *server]
        return Program("postgres", command, stop_signal="INT", stop_seconds=20, group=False)

    def prepare(self) -> None:
        """Create the cluster if there is none, and write its configuration. May be repeated after a kill."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self.socket.mkdir(mode=0o700, exist_ok=True)
        self.socket.chmod(0o700)
        _give_to_service_user(self.socket)
        user = pwd.getpwuid(os.geteuid()).pw_name
        for name, text in (
            ("postgresql.conf", _CONFIGURATION.format(socket=self.socket, port=self.port)),
            ("pg_hba.conf", _ACCESS),
            ("pg_ident.conf", _OWN.format(user=user)),
        ):
            path = self.data / name
            path.write_text(text)
            _give_to_service_user(path)

    def accepts(self) -> bool:
        """Whether the server accepts our user now."""
        import psycopg

        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def create_databases(self) -> None:
        """Create the databases that don't exist yet."""
        with self._connect("postgres") as connection:
            there = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            for name in (AIRFLOW_DATABASE, STORE_DATABASE):
                if name not in there:
                    connection.execute(f'CREATE DATABASE "{name}"')

    def end_orphan(self) -> None:
        """End a server whose supervisor is gone: gracefully for 10 s, then by SIGKILL.

        Proof of ownership: the process of ``postmaster.pid`` has our data directory as its working directory.
        """
        pid = self.pid()
        if pid is None:
            return

        def is_ours(number: int) -> bool:
            return is_running_in(number, self.data)

        for number, seconds in ((signal.SIGINT, 10), (signal.SIGKILL, 5)):
            if not signal_if(pid, number, is_ours) or wait_until(lambda: not is_ours(pid), seconds):
                return

    def pid(self) -> int | None:
        """Return the server's process, as its data directory names it; None when there is none."""
        try:
            return int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _connect(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        import psycopg

        return psycopg.connect(self.dsn(database), autocommit=True, connect_timeout=3)

    def _initialise(self) -> None:
        fresh = self.data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700, parents=True)
        _give_to_service_user(fresh)
        command = [
            *(*_as_service_user(), str(_require_binaries() / "initdb"), "-D", str(fresh), "-U", USER),
            *("--auth=peer", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
        ]
        path = {"PATH": os.environ["PATH"]}
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=path, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise StepFailed(
                f"initdb could not make a database in {fresh}: {lines[-1]}; every directory above it must be "
                f"open (x) to the user {_SERVICE_USER}; set KINTSUGI_STATE to such a place"
            )
        fresh.replace(self.data)


def _require_binaries() -> Path:
    binaries = find_binaries()
    if binaries is None:
        raise PreflightError("no Postgres server is installed: run `apt-get install postgresql`")
    return binaries


def _as_service_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_SERVICE_USER}", f"--regid={_SERVICE_USER}", "--init-groups"]


def _give_to_service_user(path: Path) -> None:
    if os.geteuid() == 0:
        entry = pwd.getpwnam(_SERVICE_USER)
        os.chown(path, entry.pw_uid, entry.pw_gid)

"""A real Postgres for the store's tests: own directory, own address, own user where root starts it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from kintsugi.db.store import Store

ADDRESS = "127.34.0.1"
DEADLINE_S = 30


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else Path(str(shutil.which("postgres"))).parent


@dataclass
class Server:
    """A Postgres that can be killed and started again."""

    data: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str) -> str:
        return f"postgresql://kintsugi@{ADDRESS}:{self.port}/{database}"

    def command(self, *words: str) -> list[str]:
        # Postgres refuses to be root; and it must not outlive a killed test run.
        user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        return ["setpriv", *user, "--pdeathsig=KILL", str(_binaries() / words[0]), *words[1:]]

    def start(self) -> None:
        settings = {
            "listen_addresses": ADDRESS,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = (self.data.parent / "log").open("ab")
        self.process = subprocess.Popen(
            self.command("postgres", "-D", str(self.data), *options), stdout=log, stderr=log, cwd="/"
        )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=1).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.data.parent / "log").read_text()
                assert time.monotonic() < deadline, "Postgres did not start in time"
                time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(DEADLINE_S)

    def remove(self, number: int = signal.SIGINT) -> None:
        """Stop, and delete everything."""
        self.stop(number)
        shutil.rmtree(self.data.parent)


def new_server() -> Server:
    """A running server of its own; the caller removes it."""
    root = Path(tempfile.mkdtemp(prefix="kintsugi-store-"))
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port = probe.getsockname()[1]
    server = Server(root / "data", port)
    if os.geteuid() == 0:
        shutil.chown(root, "postgres")
    try:
        initdb = server.command("initdb", "-D", str(server.data), "-U", "kintsugi", "-A", "trust", "-N")
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/")
        server.start()
    except BaseException:
        server.remove(signal.SIGQUIT)
        raise
    return server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    server = new_server()
    yield server
    server.remove(signal.SIGQUIT)  # at once: what it would write on a clean end is thrown away


def empty_database(postgres: Server) -> Store:
    """A store on an empty database of its own, not migrated yet."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return Store(postgres.dsn(name))


@pytest.fixture
def fresh_store(postgres: Server) -> Store:
    return empty_database(postgres)


@pytest.fixture
def store(fresh_store: Store) -> Store:
    fresh_store.migrate()
    return fresh_store

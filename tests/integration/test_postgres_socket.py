"""The control plane's Postgres: our clients reach it over its socket, without a password; nobody else does."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from kintsugi.controlplane.airflow_environment import airflow_environment, own_connections
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, Postgres
from kintsugi.core.connections import store_dsn
from kintsugi.core.processes import find_listener, wait_until
from kintsugi.core.settings import Settings
from kintsugi.infra.terraform import Terraform
from tests.installations import installation, open_directory

BACKEND = """\
terraform {
  backend "pg" {}
}
output "found" { value = "here" }
"""


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with open_directory() as directory:
        made = installation(directory, "127.42")
        made.make_state()
        made.control.mkdir(mode=0o711)
        server = Postgres.of(made)
        server.prepare()
        process = subprocess.Popen(server.program().command, cwd="/", env={"PATH": os.environ["PATH"]})
        try:
            assert wait_until(server.accepts, 60)
            server.create_databases()
            yield made
        finally:
            process.terminate()
            process.wait(30)


def test_our_own_clients_reach_it(settings: Settings) -> None:
    with psycopg.connect(store_dsn(settings)) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == (
            "kintsugi",
            "kintsugi",
        )
    assert "password" not in store_dsn(settings)


def test_airflow_reaches_it_with_both_drivers(settings: Settings) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.ext.asyncio import create_async_engine

    environment = airflow_environment(settings)
    engine = create_engine(environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    with engine.connect() as connection:
        assert connection.execute(text("SELECT current_database()")).scalar() == AIRFLOW_DATABASE
    engine.dispose()

    async def ask() -> object:
        engine = create_async_engine(environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"])
        async with engine.connect() as connection:
            found = (await connection.execute(text("SELECT current_database()"))).scalar()
        await engine.dispose()
        return found

    assert asyncio.run(ask()) == AIRFLOW_DATABASE


@pytest.mark.skipif(shutil.which("terraform") is None, reason="no terraform on the path")
def test_terraform_keeps_its_state_there(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(BACKEND)
    Terraform(settings, root=tmp_path).apply_all()
    with psycopg.connect(store_dsn(settings)) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'states'").fetchone()
    assert found == (1,)


def test_no_client_has_a_password_or_a_port_to_send_it_to(settings: Settings) -> None:
    plane = settings.fleet.control_plane
    assert find_listener(plane.address, plane.postgres_port) is None
    assert "password" not in own_connections(settings)["kintsugi_store"]
    for name in ("SQL_ALCHEMY_CONN", "SQL_ALCHEMY_CONN_ASYNC"):
        assert (
            f"kintsugi@/{AIRFLOW_DATABASE}?host=/"
            in airflow_environment(settings)[f"AIRFLOW__DATABASE__{name}"]
        )
    assert not (settings.secrets / "postgres").exists()


def test_another_user_neither_reaches_it_nor_takes_its_place(settings: Settings) -> None:
    socket = Postgres.of(settings).socket
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    for command in (
        ["ls", str(socket)],
        ["touch", str(socket / "x")],
        ["mv", str(socket), str(socket) + "-2"],
    ):
        assert subprocess.run([*nobody, *command], capture_output=True, check=False).returncode != 0
    server = Postgres.of(settings)
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry|Peer authentication failed"):
        psycopg.connect(server.dsn().replace("kintsugi@", "postgres@"))

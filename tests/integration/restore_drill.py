"""An installation with one node for the tests of backup and restore: what it has, and what a lost machine takes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import psycopg
import yaml

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, Postgres
from kintsugi.core.certificates import create_authority, trust_file
from kintsugi.core.connections import store_dsn
from kintsugi.core.settings import Settings
from kintsugi.db.store import Store
from kintsugi.installation.backup import Backup
from kintsugi.installation.backup_content import ITEMS
from kintsugi.installation.backup_place import BucketPlace
from kintsugi.installation.restore import restore

NODE = "spark-worker-1"
LOST = ("secrets", *(f"control/{name}" for name in ("postgres", "formed", "releases", "airflow", "log")))


def with_one_node(settings: Settings) -> Settings:
    """The installation with a fleet of one node, which runs no JVM here."""
    document = yaml.safe_load(settings.fleet_file.read_text())
    document["nodes"] = [node for node in document["nodes"] if node["name"] == NODE]
    settings.fleet_file.write_text(yaml.safe_dump(document))
    return settings


def fill(settings: Settings) -> None:
    """What an installation has after a while: tables, files with several modes, a release."""
    Store(store_dsn(settings)).migrate()
    Store(store_dsn(settings)).add_release("a" * 64, "test")
    Store(store_dsn(settings)).set_node_releases([NODE], "a" * 64)
    create_authority(settings)
    trust_file(settings)
    ssh = settings.secrets / "ssh"
    (ssh / "known_hosts").touch(mode=0o644)
    release = settings.control / "releases" / ("a" * 64)
    release.mkdir(parents=True)
    (release / "MANIFEST").write_text("a release")
    (release / "MANIFEST").chmod(0o444)
    (settings.control / "formed").mkdir(exist_ok=True)
    (settings.control / "formed" / "kafka").write_text("formed")
    with psycopg.connect(Postgres.of(settings).dsn(AIRFLOW_DATABASE)) as connection:
        connection.execute("CREATE TABLE dag (dag_id text, is_paused boolean)")
        connection.execute("INSERT INTO dag SELECT 'dag-' || n, n % 2 = 0 FROM generate_series(1, 5000) n")


def files_of(settings: Settings) -> dict[str, tuple[int, int, int, bytes]]:
    """Mode, owner, group and bytes of every file and directory that a backup has, by path."""
    found = {}
    for item in ITEMS:
        path = settings.state / item
        for one in [path, *path.rglob("*")] if path.exists() else []:
            status = one.stat()
            body = one.read_bytes() if one.is_file() else b""
            found[str(one)] = (status.st_mode, status.st_uid, status.st_gid, body)
    return found


def databases_of(settings: Settings) -> dict[str, list[Any]]:
    """The rows of both databases, by table, but for what a restore corrects."""
    rows: dict[str, list[Any]] = {}
    for database in ("airflow", "kintsugi"):
        with psycopg.connect(Postgres.of(settings).dsn(database)) as connection:
            tables = connection.execute(
                "SELECT schemaname || '.' || tablename FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
            ).fetchall()
            for (table,) in tables:
                query = f"SELECT t::text FROM {table} t ORDER BY 1"
                rows[f"{database}.{table}"] = connection.execute(query).fetchall()
    rows.pop("kintsugi.public.desired")
    return rows


def lose_control_plane(settings: Settings) -> None:
    """What a machine has lost whose nodes still run: everything but nodes, volumes and S3's data."""
    for name in LOST:
        shutil.rmtree(settings.state / name, ignore_errors=True)


@dataclass
class Drill:
    """An installation with one node, its backup in a bucket elsewhere, and the state of both before the loss."""

    settings: Settings
    place: BucketPlace
    plane: ControlPlane
    made: Backup
    files: dict[str, tuple[int, int, int, bytes]]
    rows: dict[str, list[Any]]
    incarnation: str | None

    @property
    def id(self) -> str:
        return self.made.manifest.id

    def restore(self, **options: Any) -> None:
        restore(self.settings, source=self.place, **options)

    def nothing_in_place(self) -> bool:
        return not any((self.settings.state / item).exists() for item in (*ITEMS, "control/postgres"))

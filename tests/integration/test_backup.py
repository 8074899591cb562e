"""Back up a control plane, lose it while a node runs, restore it, and compare: on real Postgres, S3 and Terraform.

The backups lie on another S3 server than the installation's own, as in a user's bucket. Airflow doesn't run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config

from kintsugi.controlplane import airflow_runs
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, Postgres
from kintsugi.core.backup_record import last_backup
from kintsugi.core.connections import TIMEOUTS
from kintsugi.core.encryption import BackupAltered, BackupRefused, WrongBackupKey
from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.settings import BUCKET
from kintsugi.environments.local import node as nodes
from kintsugi.infra.terraform import Terraform
from kintsugi.installation import restore as restore_module
from kintsugi.installation.backup import back_up
from kintsugi.installation.backup_manifest import MANIFEST, manifest_key, object_key
from kintsugi.installation.backup_place import BucketPlace, place_to_read, place_to_write
from kintsugi.installation.restore import STAGING, choose_backup, restore
from kintsugi.installation.up import start_installation
from kintsugi.recovery.plan_policy import planned_changes
from tests.installations import installation, open_directory
from tests.integration import servers
from tests.integration.restore_drill import (
    NODE,
    Drill,
    databases_of,
    files_of,
    fill,
    lose_control_plane,
    with_one_node,
)

BLOCK, S3_ADDRESS, THEIRS = "127.48", "127.48.9.1", "acme-backups"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketPlace]:
    server = servers.s3(tmp_path_factory.mktemp("s3"), S3_ADDRESS)
    client = boto3.client(
        "s3",
        endpoint_url=server.extra["url"],
        aws_access_key_id=server.extra["access_key"],
        aws_secret_access_key=server.extra["secret_key"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=THEIRS)
    yield BucketPlace(client, THEIRS, "kintsugi/")
    server.stop()


@pytest.fixture(scope="module")
def drill(bucket: BucketPlace) -> Iterator[Drill]:
    """One loss; the tests below restore it again and again, in their order."""
    with open_directory() as directory, pytest.MonkeyPatch.context() as patch:
        settings = with_one_node(installation(directory, BLOCK))
        patch.setenv("KINTSUGI_BACKUP_KEY", str(directory / "keys" / "backup.key"))
        patch.setenv("KINTSUGI_BACKUPS_KEPT", "2")
        plane = ControlPlane(settings)
        try:
            plane.start_storage()
            Terraform(settings).apply_all()
            fill(settings)
            made = back_up(settings, place=bucket)
            files, rows = files_of(settings), databases_of(settings)
            incarnation = nodes.read_incarnation(settings, NODE)
            assert incarnation is not None
            yield Drill(settings, bucket, plane, made, files, rows, incarnation)
        finally:
            plane.remove()
            nodes.destroy_node(settings, NODE)


def test_a_backup_is_encrypted_and_says_that_its_key_must_be_copied(drill: Drill) -> None:
    assert drill.made.key_made
    assert "COPY IT" in str(drill.made)
    sealed = drill.place.client.get_object(Bucket=THEIRS, Key=f"kintsugi/{object_key(drill.id)}")[
        "Body"
    ].read()
    assert len(sealed) == drill.made.manifest.size
    secret = (drill.settings.secrets / "s3-backup").read_bytes()
    key = drill.made.key_file.read_text().strip()
    for open_text in (secret, b"CREATE TABLE", b"secrets/", bytes.fromhex(key), key.encode()):
        assert open_text not in sealed
    manifest = drill.place.read(manifest_key(drill.id))
    assert secret not in manifest
    assert key.encode() not in manifest
    assert not (drill.settings.control / "backup").exists()
    assert last_backup(drill.settings) == drill.made.manifest.made_at


def test_a_control_plane_that_runs_is_not_restored_over(drill: Drill) -> None:
    with pytest.raises(GuardRefused, match="runs"):
        drill.restore()
    assert files_of(drill.settings) == drill.files


def test_a_backup_that_is_killed_before_its_manifest_never_counts(drill: Drill) -> None:
    class KilledBeforeManifest(BucketPlace):
        def write(self, key: str, body: bytes) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    place = KilledBeforeManifest(drill.place.client, drill.place.bucket, drill.place.prefix)
    before = set(drill.place.sizes())
    assert killed(lambda: back_up(drill.settings, place=place))
    (half,) = set(drill.place.sizes()) - before
    assert half > object_key(drill.id)
    assert choose_backup(drill.place).id == drill.id
    assert (
        back_up(drill.settings, place=drill.place).manifest.id > drill.id
    )  # what was left is in nobody's way
    third = back_up(drill.settings, place=drill.place)
    assert third.deleted == 1
    complete = [key for key in drill.place.sizes() if key.endswith(MANIFEST)]
    assert len(complete) == 2
    drill.made = third


def test_no_other_key_is_made_unasked(drill: Drill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KINTSUGI_BACKUP_KEY", str(tmp_path / "other.key"))
    with pytest.raises(GuardRefused, match="--new-key"):
        back_up(drill.settings, place=drill.place)
    assert not (tmp_path / "other.key").exists()
    elsewhere = BucketPlace(drill.place.client, drill.place.bucket, "another-prefix/")
    assert back_up(drill.settings, place=elsewhere).key_made
    (tmp_path / "other.key").unlink()
    assert back_up(drill.settings, place=elsewhere, new_key=True).key_made


def test_an_s3_that_is_away_is_said_and_nothing_is_left(drill: Drill) -> None:
    away = boto3.client(
        "s3", endpoint_url="http://127.0.0.1:9", aws_access_key_id="a", aws_secret_access_key="b",
        region_name="us-east-1", config=Config(**TIMEOUTS),
    )  # fmt: skip
    with pytest.raises(StepFailed, match=r"127\.0\.0\.1:9"):
        back_up(drill.settings, place=BucketPlace(away, THEIRS))
    assert not (drill.settings.control / "backup").exists()


def test_the_own_bucket_is_used_without_a_connection(drill: Drill) -> None:
    assert place_to_write(drill.settings).bucket == BUCKET
    made = back_up(drill.settings)
    keys = [key for key in place_to_write(drill.settings).sizes() if made.manifest.id in key]
    assert len(keys) == 2


def test_the_own_bucket_is_read_from_the_disk_when_its_server_is_gone(drill: Drill) -> None:
    newest = choose_backup(place_to_write(drill.settings))
    drill.plane.stop()
    source = place_to_read(drill.settings)
    assert choose_backup(source) == newest
    target = drill.settings.state.parent / "fetched"
    source.fetch(object_key(newest.id), target)
    restore_module.verify_object(target, newest)


def test_the_files_of_an_installation_are_not_overwritten(drill: Drill) -> None:
    with pytest.raises(GuardRefused, match="holds a control plane"):
        drill.restore()
    assert files_of(drill.settings) == drill.files


def killed(action: Callable[[], object]) -> bool:
    """Run ``action`` in a child process; whether it ended by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@contextmanager
def altered(drill: Drill, change: Callable[[bytearray], None]) -> Iterator[bytes]:
    """The object in the bucket is changed during the block; yields its bytes."""
    key = f"{drill.place.prefix}{object_key(drill.id)}"
    good = drill.place.client.get_object(Bucket=THEIRS, Key=key)["Body"].read()
    bad = bytearray(good)
    change(bad)
    drill.place.client.put_object(Bucket=THEIRS, Key=key, Body=bytes(bad))
    try:
        yield bytes(bad)
    finally:
        drill.place.client.put_object(Bucket=THEIRS, Key=key, Body=good)


def flip_a_bit(body: bytearray) -> None:
    body[len(body) // 2] ^= 1


def test_an_altered_backup_is_refused_before_anything_is_in_place(drill: Drill) -> None:
    lose_control_plane(drill.settings)
    with altered(drill, flip_a_bit) as body:
        with pytest.raises(BackupAltered, match="SHA-256"):
            drill.restore(backup=drill.id)
        # Who can write to the bucket can write another manifest, too.
        manifest = dataclasses.replace(drill.made.manifest, sha256=hashlib.sha256(body).hexdigest())
        drill.place.write(manifest_key(drill.id), manifest.to_json().encode())
        with pytest.raises(BackupAltered, match="chunk"):
            drill.restore(backup=drill.id)
        drill.place.write(manifest_key(drill.id), drill.made.manifest.to_json().encode())
    assert drill.nothing_in_place()
    assert not (drill.settings.state / STAGING).exists()


def test_another_key_no_key_and_another_fleet_file_are_refused(
    drill: Drill, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KINTSUGI_BACKUP_KEY", str(tmp_path / "other"))
    with pytest.raises(KintsugiError, match="put your copy"):
        drill.restore()
    (tmp_path / "other").write_text("00" * 32)
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(WrongBackupKey):
        drill.restore()
    monkeypatch.undo()
    monkeypatch.setenv("KINTSUGI_BACKUP_KEY", str(drill.made.key_file))
    elsewhere = dataclasses.replace(drill.settings, fleet_file=tmp_path / "fleet.yaml")
    elsewhere.fleet_file.write_text(drill.settings.fleet_file.read_text() + "# another\n")
    with pytest.raises(BackupRefused, match="differs from the fleet file"):
        restore(elsewhere, source=drill.place)
    assert drill.nothing_in_place()


def kill_in(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, *, call: int = 1) -> None:
    """Kill the process in its nth call of this function, before it does anything."""
    real, calls = getattr(target, name), [0]

    def kill(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    monkeypatch.setattr(target, name, kill)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("read_content", 1),
        ("restore_database", 2),  # its Postgres runs on without it
        ("write_private", 1),
        ("_put_in_place", 1),
        ("_move_part", 2),
        ("_remove_placed", 1),
    ],
)
def test_a_restore_that_is_killed_goes_on_and_up_waits_for_it(
    drill: Drill, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    lose_control_plane(drill.settings)
    with monkeypatch.context() as patch:
        kill_in(patch, restore_module, name, call=call)
        assert killed(drill.restore)
    with pytest.raises(GuardRefused, match="run `make restore` again"):
        start_installation(drill.settings)
    drill.restore()
    assert files_of(drill.settings) == drill.files
    assert not (drill.settings.state / STAGING).exists()


def test_what_was_lost_comes_back_and_the_node_never_notices(drill: Drill) -> None:
    lose_control_plane(drill.settings)
    drill.restore()
    assert files_of(drill.settings) == drill.files
    drill.plane.start_storage()
    rows = databases_of(drill.settings)
    assert rows.keys() == drill.rows.keys()
    assert [table for table in rows if rows[table] != drill.rows[table]] == []
    plan = Terraform(drill.settings).plan()
    assert planned_changes(plan.document) == {}
    Terraform(drill.settings).apply_all()
    assert nodes.read_incarnation(drill.settings, NODE) == drill.incarnation
    assert place_to_write(drill.settings).sizes()


def test_the_users_connection_names_the_bucket(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"bucket_name": THEIRS, "prefix": "kintsugi/"}
    connection = {
        "conn_type": "aws", "login": "kintsugi", "password": "kintsugi-test",
        "extra": {
            "region_name": "us-east-1", "endpoint_url": drill.place.client.meta.endpoint_url,
            "config_kwargs": {"s3": {"addressing_style": "path"}}, "service_config": {"s3": fields},
        },
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_BACKUP", json.dumps(connection))
    assert place_to_write(drill.settings).sizes() == drill.place.sizes()
    assert choose_backup(place_to_read(drill.settings)).id == drill.id
    fields.pop("bucket_name")
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_BACKUP", json.dumps(connection))
    with pytest.raises(KintsugiError, match="bucket_name"):
        place_to_write(drill.settings)


def test_airflow_takes_up_no_run_of_before(drill: Drill) -> None:
    """With Airflow's own tables, so that a new version with other columns is noticed."""
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from sqlalchemy import create_engine

    import_all_models()  # type: ignore[no-untyped-call]
    dsn = Postgres.of(drill.settings).dsn(AIRFLOW_DATABASE)
    with psycopg.connect(dsn) as connection:
        connection.execute("DROP TABLE dag")
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg2://", 1))
    Base.metadata.create_all(engine)
    engine.dispose()
    with psycopg.connect(dsn) as connection:
        connection.execute("SET session_replication_role = replica")  # rows without what they refer to
        for state in ("running", "queued", "success", "failed"):
            connection.execute(
                "INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after, clear_number, start_date)"
                " VALUES ('watch_kafka-1', %s, 'scheduled', %s, now(), 0, now())",
                (state, state),
            )
        connection.execute("INSERT INTO job (job_type, state) VALUES ('SchedulerJob', 'running')")
    assert airflow_runs.end_unfinished_runs(dsn) == 2
    assert airflow_runs.end_unfinished_runs(dsn) == 0
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT run_id, state FROM dag_run").fetchall()
        assert dict(rows) == {
            "running": "failed",
            "queued": "failed",
            "success": "success",
            "failed": "failed",
        }

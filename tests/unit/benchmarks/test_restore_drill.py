"""The parts of the drill without a fleet: what is taken and put back, what is sent, what is said and measured."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from benchmarks import control_plane_loss
from benchmarks.control_plane_loss import LostMachine, way_back
from benchmarks.node_processes import NodeProcess, ended_processes, processor_since, stable_processes
from benchmarks.outage_feed import OutageFeed, read_messages
from benchmarks.restore_drill import (
    RestoreDrill,
    describe_problems,
    describe_window,
    has_failed,
    recovery_seconds,
)
from kintsugi.core.encryption import BackupRefused, EncryptingWriter, key_id
from kintsugi.core.errors import GuardRefused, NotAcknowledged, StepFailed
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import TOPIC, Settings
from kintsugi.installation.backup_manifest import BackupManifest, manifest_key, object_key
from kintsugi.installation.backup_place import DirectoryPlace
from kintsugi.sampledata.generator import LivePart, live_parts

BACKUP = "20261130T140000.000Z"


@pytest.fixture
def machine(tmp_path: Path) -> LostMachine:
    settings = Settings(tmp_path / "state", tmp_path / "cache", REPOSITORY / "fleet.yaml")
    for name in ("nodes/kafka-1/log", "volumes/kafka-1", "secrets/tls", "control/postgres"):
        (settings.state / name).mkdir(parents=True)
    for name in ("trades/2026-11-30/a.csv", "eod/b.csv", "incidents/i/incident.json", "releases/r.tar.gz"):
        path = settings.control / "s3/data/kintsugi" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return LostMachine(settings)


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    """A place with one backup, and the key file that opens it."""
    key, place = secrets.token_bytes(32), tmp_path / "place"
    sealed = place / object_key(BACKUP)
    sealed.parent.mkdir(parents=True)
    with sealed.open("wb") as file:
        writer = EncryptingWriter(file, key, BACKUP)
        writer.write(b"a backup" * 10_000)
        writer.finish()
    manifest = BackupManifest(BACKUP, "kintsugi", "local", "r", key_id(key), writer.size, writer.sha256, {})
    (place / manifest_key(BACKUP)).write_text(manifest.to_json())
    (tmp_path / "backup.key").write_text(key.hex())
    (tmp_path / "backup.key").chmod(0o600)
    return place


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def keep(machine: LostMachine, backups: Path) -> BackupManifest:
    machine.settings.make_state()
    return machine.keep_backup(DirectoryPlace(backups), backups.parent / "backup.key", BACKUP)


def test_nothing_of_the_control_plane_stays_and_the_nodes_do(machine: LostMachine, backups: Path) -> None:
    keep(machine, backups)
    machine.destroy()
    assert names(machine.settings.state) == ["lock", "nodes", "volumes"]
    assert (machine.settings.state / "nodes/kafka-1/log").exists()
    assert names(machine.taken) == ["control", "secrets"]


def test_the_bucket_comes_back_in_two_parts(machine: LostMachine, backups: Path) -> None:
    keep(machine, backups)
    machine.destroy()
    machine.put_deliveries_back()
    assert names(machine.bucket) == ["eod", "trades"]
    assert (machine.bucket / "trades/2026-11-30/a.csv").read_text() == "trades/2026-11-30/a.csv"
    (machine.bucket / "releases").mkdir()
    (machine.bucket / "releases/r.tar.gz").write_text("of the new control plane")
    assert machine.put_rest_back() == 1
    assert (machine.bucket / "incidents/i/incident.json").exists()
    assert (machine.bucket / "releases/r.tar.gz").read_text() == "of the new control plane"


def test_the_copies_are_private_and_open_the_backup(machine: LostMachine, backups: Path) -> None:
    assert keep(machine, backups).id == BACKUP
    assert machine.directory.stat().st_mode & 0o077 == 0
    assert machine.key.stat().st_mode & 0o777 == 0o600
    assert not machine.key.is_relative_to(machine.copy)
    assert not machine.directory.is_relative_to(machine.settings.state)


def test_copies_that_do_not_open_are_refused_before_anything_is_lost(
    machine: LostMachine, backups: Path
) -> None:
    (backups.parent / "backup.key").write_text(secrets.token_hex(32))
    with pytest.raises(BackupRefused):
        keep(machine, backups)
    assert not machine.directory.exists()
    assert (machine.settings.control / "postgres").exists()


def test_a_process_that_does_not_end_keeps_the_files(
    machine: LostMachine, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(machine, backups)
    monkeypatch.setattr(control_plane_loss, "owned_pids", lambda _: {12, os.getpid()})
    with pytest.raises(StepFailed, match="12"):
        machine.destroy()
    assert (machine.settings.control / "postgres").exists()


def test_a_drill_that_was_ended_is_not_begun_again(machine: LostMachine, backups: Path) -> None:
    machine.require_no_drill()
    keep(machine, backups)
    with pytest.raises(GuardRefused, match="make up"):
        machine.require_no_drill()
    machine.destroy()
    with pytest.raises(GuardRefused, match=f"make restore DIRECTORY={machine.copy}"):
        machine.require_no_drill()


def test_the_way_back_puts_the_bucket_back(machine: LostMachine, backups: Path) -> None:
    """The commands of a shell among them are run as they are printed."""
    keep(machine, backups)
    machine.destroy()
    restore, copy, up, remove = way_back(machine, is_taken=True, is_restored=False)
    assert shlex.split(restore) == ["make", "restore", f"DIRECTORY={machine.copy}"]
    assert up == "make up"
    subprocess.run(["sh", "-c", f"{copy} && {remove}"], check=True)
    assert names(machine.bucket) == ["eod", "incidents", "releases", "trades"]
    assert not machine.directory.exists()


def test_an_error_says_the_way_back(machine: LostMachine, backups: Path) -> None:
    keep(machine, backups)
    console: Any = None
    drill = RestoreDrill(machine.settings, console, machine.settings.state, "kafka-2", machine)
    for error in (StepFailed("no Postgres"), OSError("disk full"), KeyboardInterrupt()):
        with pytest.raises(StepFailed, match="make up"), drill.telling_the_way_back():
            raise error


def parts(rows: int = 20) -> Iterator[LivePart]:
    return live_parts(day=date(2024, 10, 8), seed=7, rows=rows)


class Bucket:
    """S3 with its objects; ``away``: it refuses connections."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.away = False
        self.clients = 0

    def __call__(self) -> Bucket:
        self.clients += 1
        return self

    def put_object(self, *, Key: str, Body: bytes, **_: str) -> None:  # noqa: N803 - boto3's names
        if self.away:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
        self.objects[Key] = Body


class Producer:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes | None, bytes]] = []
        self.flushed = 0
        self.refuses = False

    def send(self, topic: str, *, value: bytes, key: bytes | None = None) -> None:
        self.sent.append((topic, key, value))

    def flush(self) -> None:
        if self.refuses:
            raise NotAcknowledged("no leader")
        self.flushed = len(self.sent)


def test_a_part_is_sent_as_the_ingest_sends_it_and_delivered_later() -> None:
    bucket, producer = Bucket(), Producer()
    feed = OutageFeed(parts(), bucket, producer, period_s=1)
    first, second, third = islice(parts(), 3)
    feed.deliver_part()
    feed.send_directly()
    feed.deliver_part()
    assert list(bucket.objects) == [first.key]
    assert bucket.clients == 1
    messages = read_messages(second)
    assert len(messages) == 20
    assert producer.sent == [(TOPIC, message.symbol.encode(), message.value) for message in messages]
    assert producer.flushed == 20
    feed.return_to_s3()
    feed.deliver_part()
    assert bucket.objects == {part.key: part.body for part in (first, second, third)}
    assert (feed.delivered, feed.sent_directly, len(producer.sent)) == (3, 1, 20)


def test_no_client_of_s3_is_made_while_there_is_no_s3() -> None:
    """Making one makes its key, which would be in the place of the restored one."""
    bucket = Bucket()
    feed = OutageFeed(parts(), bucket, Producer(), period_s=1)
    feed.send_directly()
    feed.deliver_part()
    assert bucket.clients == 0


def test_a_part_that_is_refused_is_kept_and_reported() -> None:
    bucket, producer = Bucket(), Producer()
    feed = OutageFeed(parts(), bucket, producer, period_s=1)
    bucket.away = producer.refuses = True
    feed.deliver_part()
    feed.send_directly()
    feed.deliver_part()
    assert (feed.delivered, feed.sent_directly, feed.failures) == (0, 0, ["no leader"])
    bucket.away = False
    feed.return_to_s3()
    assert list(bucket.objects) == [part.key for part in islice(parts(), 2)]


def test_a_feed_delivers_while_its_block_runs() -> None:
    bucket = Bucket()
    with OutageFeed(parts(2), bucket, Producer(), period_s=0.01) as feed:
        while feed.delivered < 3:
            pass
    delivered = feed.delivered
    assert len(bucket.objects) == delivered


def test_helpers_end_and_services_must_not() -> None:
    kafka, session = NodeProcess("kafka-1", 10, 100), NodeProcess("kafka-1", 11, 100)
    again = dataclasses.replace(kafka, start=200)
    services = stable_processes({kafka: "java", session: "sshd"}, {kafka: "java"})
    assert services == {kafka: "java"}
    assert ended_processes(services, {kafka: "java", again: "java"}) == []
    assert ended_processes(services, {again: "java"}) == ["kafka-1: java (pid 10)"]


LOG = """\
2026-11-30 10:17:50,000 INFO stream_trades: batch 628: 300 trades, 0 unusual
2026-11-30 10:17:51,300 WARN ProcessingTimeExecutor: Current batch is falling behind.
2026-11-30 10:17:53,500 INFO stream_trades: batch 629: 900 trades, 0 unusual
""".splitlines()
BEGIN = datetime(2026, 11, 30, 10, 17, 48).timestamp()  # noqa: DTZ001 - the driver writes local time


def test_the_ends_of_the_time_are_ends_of_gaps() -> None:
    assert describe_window(LOG, BEGIN, BEGIN + 20) == {
        "seconds": 20,
        "stored": 1200,
        "longest_gap_s": 14.5,
        "gap_begins_s": 5.5,
        "batches": [[2, 300], [5.5, 1200]],
    }
    assert describe_window(LOG, BEGIN + 1, BEGIN + 6)["longest_gap_s"] == 3.5


def test_a_batch_without_a_trade_ends_no_gap() -> None:
    empty = "2026-11-30 10:17:57,000 INFO stream_trades: batch 630: 0 trades, 0 unusual"
    assert describe_window([*LOG, empty], BEGIN, BEGIN + 20)["longest_gap_s"] == 14.5


def test_a_time_without_a_batch_is_one_gap() -> None:
    assert describe_window([], 100, 142)["longest_gap_s"] == 42


def test_the_wait_for_the_processor_counts_since_the_earlier_reading() -> None:
    assert processor_since({"kafka-1": (10.0, 2.0)}, {"kafka-1": (14.04, 7.0)}) == {
        "kafka-1": {"used_s": 4.0, "waited_s": 5.0}
    }


def test_seconds_of_the_recovery_count_from_the_loss() -> None:
    figures = {"detected_s": 2.5, "repaired_s": 14.2, "consistent_s": None}
    assert recovery_seconds(figures, 100) == {"detected": 102.5, "recovered": 114.2}


WELL: dict[str, Any] = {
    "ended_processes": [],
    "incidents_after_restore": [],
    "feed": {"failures": []},
    "account": {"lost": 0, "doubled": 0, "wrong_derived": 0},
}


@pytest.mark.parametrize(
    "change",
    [
        {"ended_processes": ["kafka-1: java (pid 10)"]},
        {"incidents_after_restore": ["kafka-1-20261130T140000Z-1f3c"]},
        {"feed": {"failures": ["no leader"]}},
        {"account": {"lost": 1, "doubled": 0, "wrong_derived": 0}},
    ],
)
def test_each_fault_fails_the_drill(change: dict[str, Any]) -> None:
    assert not has_failed(WELL)
    assert has_failed(WELL | change)


def test_a_paused_watch_is_a_problem() -> None:
    status = {"nodes": [], "control_plane": {}, "airflow": {"scheduler": "healthy"}, "open_incidents": []}
    assert describe_problems({**status, "unwatched": []}) == ""
    assert "kafka-1" in describe_problems({**status, "unwatched": ["kafka-1"]})

"""No file holds up another: the ingest on a real S3 and a real Postgres, with a producer that only remembers.

The content of files is the reader's; here are the states of a file, and what leads from one to the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError

from kintsugi.core.data_source import own_source
from kintsugi.core.errors import InputError, NotAcknowledged
from kintsugi.core.settings import BUCKET, TOPIC
from kintsugi.db.intake import IntakeStore
from kintsugi.db.ledger_entry import FileState, LedgerEntry
from kintsugi.pipeline import synthetic_trade
from kintsugi.pipeline.ingest import file_ingest, ingest_run
from kintsugi.pipeline.ingest.file_ingest import ingest_object
from kintsugi.pipeline.ingest.file_manifest import FileIngestReport
from kintsugi.pipeline.ingest.file_reader import read_lines
from kintsugi.pipeline.ingest.ingest_run import SyntheticTradeIngest, ingest_pending
from kintsugi.pipeline.ingest.intake_monitor import IntakeMonitor
from kintsugi.pipeline.ingest.intake_report import IntakeReport, IntakeRules
from kintsugi.pipeline.ingest.redrive import delete_manifests
from kintsugi.pipeline.kafka_producer import OffsetRanges, Producer
from kintsugi.pipeline.object_listing import list_own_trade_files, list_waiting_files
from kintsugi.pipeline.stream.baselines import manifest_key, pending_files
from kintsugi.sampledata.generator import HEADER, generate_day
from tests.integration import servers
from tests.integration.pipeline import s3_client
from tests.integration.servers import Server

NET = "127.31.93"
DAY = "trades/2024-10-08/UnderlyingOptionsTradesCalcs_2024-10-08"


class Kafka(Producer):
    """A producer that remembers what was sent to the topic of trades; ``refuse`` makes it fail."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.refuse = False

    def send(
        self, topic: str, *, value: bytes, key: bytes | None = None, offsets: OffsetRanges | None = None
    ) -> None:
        if topic == TOPIC:
            self.sent.append(json.loads(value)["symbol"])

    def flush(self, timeout: float = 0) -> None:
        if self.refuse:
            raise NotAcknowledged("Kafka is away")


class Place:
    """A bucket, a ledger and a producer."""

    def __init__(self, url: str, dsn: str) -> None:
        self.s3, self.ledger, self.kafka, self.dsn = s3_client(url), IntakeStore(dsn), Kafka(), dsn
        self.denied: set[str] = set()
        self.s3.meta.events.register("before-call.s3.GetObject", self._deny)

    def _deny(self, params: dict[str, Any], **_: Any) -> None:
        if any(params["url_path"].endswith(key) for key in self.denied):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not allowed"}}, "GetObject")

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def ingest(self) -> dict[str, FileIngestReport]:
        return {report.key: report for report in ingest_pending(self.s3, self.ledger, [])}

    def row(self, key: str) -> LedgerEntry:
        """The newest row of a key."""
        return self.ledger.by_key({key})["", key][-1]

    def waiting(self) -> list[str]:
        return [item.key for item in list_waiting_files(self.s3, self.ledger)]

    def forget_pauses(self) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute("UPDATE ledger_file SET retry_at = now() WHERE retry_at IS NOT NULL")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("intake")
    running: list[Server] = []
    try:
        running.append(s3 := servers.s3(folder / "s3", f"{NET}.1"))
        running.append(postgres := servers.postgres(folder / "postgres", f"{NET}.1"))
        s3_client(s3.extra["url"]).create_bucket(Bucket=BUCKET)
        yield s3, postgres
    finally:
        servers.stop_all(running)


@pytest.fixture
def place(started: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> Place:
    s3, postgres = started
    made = Place(s3.extra["url"], postgres.extra["dsn"])
    with psycopg.connect(made.dsn) as connection:
        connection.execute("TRUNCATE ledger_file")
    for item in made.s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        made.s3.delete_object(Bucket=BUCKET, Key=item["Key"])

    @contextmanager
    def producing(_: list[str]) -> Iterator[Kafka]:
        yield made.kafka

    monkeypatch.setattr(ingest_run, "open_producer", producing)
    return made


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    made = generate_day(tmp_path_factory.mktemp("day"), day=date(2024, 10, 8), seed=7, trades=400)
    return made.trade_files[0].read_bytes().splitlines()[1:]


def body(lines: list[bytes]) -> bytes:
    return b"\n".join([HEADER.encode(), *lines, b""])


def test_a_file_that_fails_for_its_own_reason_holds_up_no_other(
    place: Place, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:

    def reading(s3: Any, bucket: str, key: str, *rest: Any, **more: Any) -> Any:
        yield from read_lines(s3, bucket, key, *rest, **more)
        if key.endswith("_2.csv"):
            raise OverflowError("nobody has thought of this")

    monkeypatch.setattr(file_ingest, "read_lines", reading)
    place.put(f"{DAY}_1.csv", b"")
    place.put(f"{DAY}_2.csv", body(lines[:50]))
    place.put(f"{DAY}_3.csv", body(lines[50:80]))
    synthetic = synthetic_trade.send_synthetic_trade(place.s3)
    reports = place.ingest()
    states = {key[-5:-4]: report.state for key, report in reports.items() if key.startswith(DAY)}
    assert states == {"1": FileState.FAILED, "2": FileState.FAILED, "3": FileState.DONE}
    assert "OverflowError" in (place.row(f"{DAY}_2.csv").reason or "")
    assert place.row(f"{DAY}_3.csv").tally.accepted == 30
    assert place.kafka.sent[0] == "ZZKNTSG", "the synthetic trade goes first"
    assert synthetic
    assert place.waiting() == []


def test_a_synthetic_trade_waits_for_one_chunk_of_a_long_file_and_not_for_the_file(
    place: Place, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_run, "SYNTHETIC_EVERY_S", 0.0)
    place.put(f"{DAY}.csv", body(lines[:100]))
    (item,) = list_own_trade_files(place.s3)
    synthetic = SyntheticTradeIngest(place.s3, place.ledger, place.kafka, BUCKET)
    came: list[int] = []

    def between() -> None:
        came.append(len(place.kafka.sent))
        if len(came) == 2:
            synthetic_trade.send_synthetic_trade(place.s3)
        synthetic.ingest_new()

    report = ingest_object(
        place.s3,
        item,
        ledger=place.ledger,
        kafka=place.kafka,
        chunk_rows=20,
        after_chunk=between,
    )
    assert report is not None
    assert report.tally.produced == 100
    assert place.kafka.sent[40] == "ZZKNTSG", "right after the chunk in which it came"
    assert [one.state for one in synthetic.reports] == [FileState.DONE]


def test_when_s3_refuses_one_file_it_is_postponed_and_the_others_come_in(
    place: Place, lines: list[bytes]
) -> None:
    place.put(f"{DAY}_1.csv", body(lines[:20]))
    place.put(f"{DAY}_2.csv", body(lines[20:40]))
    place.denied = {"_1.csv"}
    assert set(place.ingest()) == {f"{DAY}_2.csv"}
    row = place.row(f"{DAY}_1.csv")
    assert (row.state, row.attempts) == (FileState.RUNNING, 1)
    assert "AccessDenied" in (row.reason or "")
    assert row.retry_at is not None
    assert row.retry_at > datetime.now(UTC)
    assert place.waiting() == [], "not before its pause is over"
    place.forget_pauses()
    assert place.ingest() == {}
    assert place.row(f"{DAY}_1.csv").attempts == 2
    assert place.row(f"{DAY}_1.csv").failing_since == row.failing_since
    place.denied = set()
    place.forget_pauses()
    assert place.ingest()[f"{DAY}_1.csv"].state is FileState.DONE
    row = place.row(f"{DAY}_1.csv")
    assert (row.attempts, row.failing_since, row.reason) == (0, None, None)


def test_when_kafka_is_away_no_file_is_blamed(place: Place, lines: list[bytes]) -> None:
    place.put(f"{DAY}_1.csv", body(lines[:20]))
    place.kafka.refuse = True
    with pytest.raises(NotAcknowledged):
        place.ingest()
    row = place.row(f"{DAY}_1.csv")
    assert (row.state, row.attempts, row.retry_at) == (FileState.RUNNING, 0, None), (
        "it waits for Kafka, not for a pause"
    )
    place.kafka.refuse = False
    assert place.ingest()[f"{DAY}_1.csv"].state is FileState.DONE


def test_a_file_that_vanished_is_taken_when_it_is_back(
    place: Place, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(f"{DAY}.csv", body(lines[:20]))
    (item,) = list_own_trade_files(place.s3)
    place.s3.delete_object(Bucket=BUCKET, Key=item.key)
    report = ingest_object(place.s3, item, ledger=place.ledger, kafka=place.kafka)
    assert report is not None
    assert report.state is FileState.VANISHED
    place.put(f"{DAY}.csv", body(lines[:20]))
    assert place.ingest()[item.key].state is FileState.DONE


def test_of_three_versions_the_third_is_taken_once(place: Place, lines: list[bytes]) -> None:
    for version in (lines[:20], lines[:30], lines[:20]):
        place.put(f"{DAY}.csv", body(version))
        assert place.ingest()[f"{DAY}.csv"].tally.accepted == len(version)
        assert place.waiting() == []
    assert len(place.ledger.entries()) == 2


def test_the_same_bytes_are_taken_again_after_a_failure_and_else_are_known(
    place: Place, lines: list[bytes]
) -> None:
    place.put(f"{DAY}_1.csv", b"no trade file")
    place.put(f"{DAY}_2.csv", body(lines[:20]))
    place.ingest()
    (first, _) = list_own_trade_files(place.s3)

    def again() -> bool:
        place.put(f"{DAY}_1.csv", b"no trade file")
        place.put(f"{DAY}_2.csv", body(lines[:20]))
        return list_own_trade_files(place.s3)[0].modified > first.modified

    servers.wait_until(again, 5, "S3's clock went on")
    assert place.waiting() == [f"{DAY}_1.csv"]
    assert place.ingest()[f"{DAY}_1.csv"].state is FileState.FAILED
    assert place.waiting() == []


def test_a_person_has_files_taken_again(place: Place, lines: list[bytes]) -> None:
    place.put(f"{DAY}_1.csv", b"no trade file")
    place.put(f"{DAY}_2.csv", body([*lines[:20], b"no trade"]))
    place.ingest()
    assert place.ledger.redrive() == [f"{DAY}_1.csv"]
    assert place.waiting() == [f"{DAY}_1.csv"]
    place.ingest()
    assert place.ledger.redrive([f"{DAY}_2.csv"]) == [f"{DAY}_2.csv"]
    report = place.ingest()[f"{DAY}_2.csv"]
    assert (report.tally.accepted, report.tally.rejected) == (20, {"columns": 1})
    with pytest.raises(InputError, match="no file"):
        place.ledger.redrive(["trades/none.csv"])


def test_two_buckets_may_have_the_same_key(place: Place, lines: list[bytes]) -> None:
    with (
        place.ledger.claim("k", '"1"', 1) as own,
        place.ledger.claim("k", '"2"', 1, bucket="theirs") as theirs,
    ):
        assert own is not None
        assert theirs is not None
        own.finish(own.entry.tally, FileState.DONE)
        theirs.finish(theirs.entry.tally, FileState.DONE)
    modified = datetime.now(UTC) - timedelta(days=1)
    with (
        place.ledger.claim("k", '"1"', 1, modified=modified) as own,
        place.ledger.claim("k", '"2"', 1, bucket="theirs", modified=modified) as theirs,
    ):
        assert own is theirs is None, "neither is a newer version of the other"


def watch(place: Place, **more: Any) -> IntakeMonitor:
    return IntakeMonitor(place.s3, (own_source(place.s3),), place.ledger, IntakeRules(), **more)


def look(seen: IntakeMonitor, *, paused: bool = False) -> tuple[IntakeReport, list[LedgerEntry]]:
    """A look now, whatever its rest."""
    seen._due = 0.0
    found = seen.make_report(paused=paused)
    assert found is not None
    return found


def test_the_watch_names_what_waits_failed_and_is_not_taken(place: Place, lines: list[bytes]) -> None:
    place.put(f"{DAY}_1.csv", b"no trade file")
    place.put(f"{DAY}_2.csv", body([*lines[:20], *[b"no trade"] * 20]))
    place.put(f"{DAY}_3.csv", HEADER.encode())
    place.put("eod/UnderlyingOptionsEODCalcs_2024-10-07.csv", b"x")
    for name in (
        f"{DAY}_1.csv.md5",
        f"{DAY}_4.csv.part",
        "trades/UnderlyingOptionsTrades_2024-10-08.csv",
        "trades/x.txt",
    ):
        place.put(name, b"x")
    seen = watch(place)
    before, _ = look(seen)
    assert (before.waiting, before.eod_waiting, before.failed_count) == (3, 1, 0)
    assert before.not_taken == sorted(
        [f"{DAY}_1.csv.md5", f"{DAY}_4.csv.part", "trades/UnderlyingOptionsTrades_2024-10-08.csv"]
    )
    place.ingest()
    (eod,) = (item for item in seen.survey().eod)
    name = manifest_key(eod.key, eod.etag)
    place.put(name, json.dumps({"state": "failed", "reason": "no end-of-day file"}).encode())
    report, unpaged = look(seen, paused=True)
    # Both failed within the same second, and S3 tells no more of it.
    assert sorted((note.kind, note.key) for note in report.failed) == [
        ("eod", eod.key),
        ("trades", f"{DAY}_1.csv"),
    ]
    assert [(note.key, note.share) for note in report.rejected] == [(f"{DAY}_2.csv", 0.5)]
    assert [note.key for note in report.empty] == [f"{DAY}_3.csv"]
    assert (report.waiting, report.eod_waiting, report.paused) == (0, 0, True)
    assert sorted(entry.key for entry in unpaged) == [f"{DAY}_{number}.csv" for number in (1, 2, 3)]
    kept = place.ledger.report()
    assert kept is not None
    assert IntakeReport.from_json(kept[1]).to_json() == report.to_json()
    place.ledger.mark_paged(unpaged)
    assert look(seen)[1] == []
    assert delete_manifests(place.s3, seen.sources) == [eod.key]
    assert pending_files(place.s3) == [eod.key]
    place.ledger.redrive()
    place.ingest()
    assert [entry.key for entry in look(seen)[1]] == [f"{DAY}_1.csv"], "it failed again: that is news"


def test_a_look_leaves_s3_alone_for_fifty_times_as_long_as_it_took(place: Place) -> None:
    times = iter([0.0, 1.0, 1.0, 50.9, 51.1, 52.0, 52.0])
    seen = watch(place)
    seen.clock = times.__next__
    assert seen.make_report() is not None
    assert seen.make_report() is None
    assert seen.make_report() is not None

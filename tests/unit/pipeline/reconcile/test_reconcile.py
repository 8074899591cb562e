"""Unit tests of the reconciliation; tests/integration/test_trades.py runs it on real servers."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import orjson
import pytest

from kintsugi.db.ledger_entry import FileState, LedgerEntry, Tally
from kintsugi.pipeline.reconcile import file_trades, installation, progress, topic_identities
from kintsugi.pipeline.reconcile.report import ReconciliationReport
from kintsugi.pipeline.row_parser import Trade, parse_trade
from kintsugi.pipeline.stream import stored_trades as tables
from tests.unit.pipeline.test_row_parser import LINE, changed, trade


def stored(**changes: object) -> SimpleNamespace:
    found = trade(LINE)
    values = {name: getattr(found, name) for name in tables.COMPARED}
    values["ts"] = datetime(2018, 1, 8, 16, 11, 5, 375000)  # noqa: DTZ001 - as the driver gives it
    return SimpleNamespace(**{**values, **changes})


def test_a_stored_row_has_the_fingerprint_of_its_trade() -> None:
    assert tables.row_fingerprint(stored()) == tables.trade_fingerprint(trade(LINE))


@pytest.mark.parametrize(
    "column", [column for column in tables.COMPARED if column not in {"trade_id", "ts", "expiration"}]
)
def test_a_row_that_was_altered_in_any_column_has_another(column: str) -> None:
    value = getattr(trade(LINE), column)
    changed = value + "X" if isinstance(value, str) else value + 1
    assert tables.row_fingerprint(stored(**{column: changed})) != tables.trade_fingerprint(trade(LINE))


def test_the_identity_is_cut_out_of_a_message_however_it_is_written() -> None:
    found = trade(LINE)
    message = orjson.dumps(found)
    identity = bytes.fromhex(found.trade_id)
    assert topic_identities.parse_identity(message) == identity
    assert (
        topic_identities.parse_identity(json.dumps({"symbol": "A", "trade_id": found.trade_id}).encode())
        == identity
    )


def test_a_report_is_complete_only_when_nothing_is_lost_extra_altered_or_doubled() -> None:
    assert ReconciliationReport(accepted=3, stored=3).complete
    for fault in ("lost_count", "extra_count", "altered_count", "doubled", "wrong_derived"):
        report = ReconciliationReport()
        setattr(report, fault, {"unusual_top": 1} if fault == "wrong_derived" else 1)
        assert not report.complete
        assert not report.balanced


def test_trades_in_flight_are_no_fault_but_the_report_is_not_complete() -> None:
    assert ReconciliationReport(in_flight=1).balanced
    assert not ReconciliationReport(in_flight=1).complete
    assert ReconciliationReport(derived_in_flight=1).balanced
    assert not ReconciliationReport(derived_in_flight=1).complete
    assert ReconciliationReport(withdrawn_count=1, expired=1).complete
    assert ReconciliationReport(unread_count=1).balanced
    assert not ReconciliationReport(unread_count=1).complete
    assert not ReconciliationReport(unreadable=["trades/x.csv: why"]).complete


NOW = datetime(2024, 10, 8, tzinfo=UTC)


def entry(state: FileState = FileState.DONE, days: float = 0, key: str = "trades/f") -> LedgerEntry:
    at = NOW - timedelta(days=days)
    return LedgerEntry(
        key, "e", state, Tally(), None, at, None if state is FileState.RUNNING else at, None, None, 1
    )


def test_the_ledger_decides_what_is_required_of_a_file() -> None:
    assert (
        progress.requirement_for(None, NOW)
        == progress.requirement_for(entry(FileState.RUNNING), NOW)
        == progress.OPEN
    )
    assert (
        progress.requirement_for(entry(), NOW)
        == progress.requirement_for(entry(days=38), NOW)
        == progress.REQUIRED
    )
    assert progress.requirement_for(entry(days=40), NOW) == progress.OLD  # Cassandra keeps 40 days
    assert progress.requirement_for(entry(FileState.FAILED), NOW) == progress.OLD


def test_a_file_is_unread_until_it_was_ingested_to_its_end() -> None:
    assert progress.unread_state(None) == "waiting"
    assert progress.unread_state(entry()) is None
    assert progress.unread_state(entry(FileState.RUNNING)) == "running"
    rejected = replace(entry(), tally=Tally(9, 9, 8, {"time": 1}))
    assert progress.unread_state(rejected) is None
    damaged = replace(entry(), tally=Tally(9, 9, 7, {"time": 1, "corrupt": 1}), reason="more")
    assert progress.unread_state(damaged) == "damaged: corrupt, more"


def test_a_reconciliation_after_an_ingest_takes_the_newest_files_and_no_synthetic_trade() -> None:
    entries = [entry(days=n / 500) for n in range(300)]
    aside = [entry(days=3), entry(FileState.RUNNING), entry(key="trades/canary/x")]
    assert installation.due_entries([*entries, *aside], NOW) == entries[:200][::-1]


@pytest.mark.parametrize("day", ["2018-01-08", "2018-07-09", "2018-03-11", "2018-11-04"])
def test_a_slot_begins_where_its_first_trade_may_be(day: str) -> None:
    for slot in range(96):
        found = parse_trade(
            changed(1, f"{day} {slot // 4:02d}:{slot % 4 * 15:02d}:00.000", changed(4, "2019-01-18"))
        )
        if isinstance(found, Trade):  # there is no 02:00 when daylight saving begins
            assert file_trades.slot_start(day, found.slot) == found.ts


def test_a_report_in_json_has_numbers_where_programs_read_them() -> None:
    report = ReconciliationReport(rejected={"time": 2, "columns": 1}, lost_count=1, lost=["ab"])
    report.wrong_derived = {"flow_window": 1, "cancel": 2}
    report.wrong_derived_named = {"flow_window": ["flow_window AAPL 2024-10-08 14:31:00Z"]}
    plain = report.to_json()
    assert (plain["rejected"], plain["lost"], plain["complete"]) == (3, 1, False)
    assert (plain["rejected_by_reason"], plain["lost_trades"]) == ({"time": 2, "columns": 1}, ["ab"])
    assert (plain["wrong_windows"], plain["wrong_derived_count"]) == (1, 3)
    json.dumps(plain)


def test_pages_are_never_read_speculatively() -> None:
    """The driver takes a second attempt's late answer for the next page, and counts a page twice."""
    asked: list[bool] = []

    class Session:
        def prepare(self, cql: str) -> SimpleNamespace:
            return SimpleNamespace(cql=cql, is_idempotent=True)

        def execute_async(self, statement: SimpleNamespace, partition: object) -> SimpleNamespace:
            asked.append(statement.is_idempotent)
            return SimpleNamespace(result=list)

    partitions = [("AAPL", "2024-10-08", slot, *tables.ALWAYS) for slot in range(3)]
    assert [list(rows) for rows in tables.read_partitions(Session(), partitions)] == [[], [], []]
    assert asked == [False] * 3


@pytest.mark.parametrize(
    "lags",
    [[50_000, 20_000, 10_000], [50_000, None], [0]],
    ids=["until the stream has caught up", "until Kafka doesn't report the lag", "not at all"],
)
def test_the_reconciliation_waits_while_the_stream_lags_behind(
    lags: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "POLL_S", 0.0)
    left = iter(lags)
    installation.await_caught_up(lambda: next(left), time.monotonic() + 60)
    assert list(left) == []


def test_the_reconciliation_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "POLL_S", 0.01)
    installation.await_caught_up(lambda: 50_000, time.monotonic() + 0.1)

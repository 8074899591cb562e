"""What needs no server; accounts are taken on real servers in tests/integration/test_trades.py."""

from __future__ import annotations

import json
from datetime import datetime
from types import SimpleNamespace

import orjson
import pytest

from kintsugi.trades import reconcile
from kintsugi.trades.reconcile import Account
from tests.unit.trades.test_rows import LINE, trade


def stored(**changes: object) -> SimpleNamespace:
    found = trade(LINE)
    values = {name: getattr(found, name) for name in reconcile.COMPARED}
    values["ts"] = datetime(2018, 1, 8, 16, 11, 5, 375000)  # noqa: DTZ001 - as the driver gives it
    return SimpleNamespace(**{**values, **changes})


def test_a_stored_row_has_the_fingerprint_of_its_trade() -> None:
    assert reconcile._row_fingerprint(stored()) == reconcile.fingerprint(trade(LINE))


@pytest.mark.parametrize(
    "column", [column for column in reconcile.COMPARED if column not in {"trade_id", "ts", "expiration"}]
)
def test_a_row_that_was_altered_in_any_column_has_another(column: str) -> None:
    value = getattr(trade(LINE), column)
    changed = value + "X" if isinstance(value, str) else value + 1
    assert reconcile._row_fingerprint(stored(**{column: changed})) != reconcile.fingerprint(trade(LINE))


def test_the_identity_is_cut_out_of_a_message_however_it_is_written() -> None:
    found = trade(LINE)
    message = orjson.dumps(found)
    identity = bytes.fromhex(found.trade_id)
    assert reconcile.trade_id_of(message) == identity
    assert reconcile.trade_id_of(json.dumps({"symbol": "A", "trade_id": found.trade_id}).encode()) == identity


def test_an_account_is_complete_only_when_nothing_is_lost_extra_altered_or_doubled() -> None:
    assert Account(accepted=3, stored=3).complete
    for fault in ("lost_count", "extra_count", "altered_count", "doubled"):
        account = Account()
        setattr(account, fault, 1)
        assert not account.complete


def test_an_account_in_json_has_numbers_where_programs_look_for_them() -> None:
    account = Account(rejected={"time": 2, "columns": 1}, lost_count=1, lost=["ab"])
    plain = account.to_json()
    assert (plain["rejected"], plain["lost"], plain["complete"]) == (3, 1, False)
    assert (plain["rejected_by_reason"], plain["lost_trades"]) == ({"time": 2, "columns": 1}, ["ab"])
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

    partitions = [("AAPL", "2024-10-08", slot) for slot in range(3)]
    assert [list(rows) for rows in reconcile.read_partitions(Session(), partitions)] == [[], [], []]
    assert asked == [False] * 3

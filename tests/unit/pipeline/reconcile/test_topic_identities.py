from __future__ import annotations

import json

import orjson
import pytest

from kintsugi.pipeline.reconcile.topic_identities import parse_identity
from tests.unit.pipeline.test_row_parser import LINE, trade

TRADE = trade(LINE)


def test_the_identity_is_found_wherever_it_stands_in_the_message() -> None:
    identity = bytes.fromhex(TRADE.trade_id)
    assert parse_identity(orjson.dumps(TRADE)) == identity
    assert parse_identity(json.dumps({"symbol": "A", "trade_id": TRADE.trade_id}).encode()) == identity


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"{", b"[]", b"7", b"\xff", b"null", b'{"symbol":"A"}', b'{"trade_id":7}', b'{"trade_id":"xy"}',
        b'{"trade_id":"ab"}', b'{"trade_id":"' + b"g" * 32 + b'"}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_message_that_is_no_trade_has_no_identity_and_ends_no_account(value: bytes | None) -> None:
    assert parse_identity(value) is None

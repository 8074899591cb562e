"""Faults of the pipeline that this one replaces, where they concern parsing, identity and storage.

Afternoon hours, put deltas and trade_iv: test_rows.py. Bins and sides: tests/spark/test_columns.py. Merged
trades: test_identity.py; here that the tables don't merge them either, and that no write is at ANY.
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.pipeline import schema
from kintsugi.pipeline.cassandra_session import connect_session
from kintsugi.pipeline.row_parser import TradeMessage, parse_message
from tests.unit.pipeline.test_row_parser import changed

if TYPE_CHECKING:
    import pytest

IDENTIFYING = st.fixed_dictionaries(
    {
        0: st.sampled_from(["AAPL", "^SPX", "A"]),
        1: st.sampled_from(["2018-01-08 11:11:05.375", "2018-01-08 13:11:05.375"]),
        2: st.integers(0, 10**17).map(str), 3: st.sampled_from(["AAPL", "SPXW"]),
        4: st.dates(date(2019, 1, 1), date(2029, 1, 1)).map(str),
        5: st.decimals("0.001", 99999, places=3).map(str), 6: st.sampled_from("CP"), 7: st.integers(0, 9999).map(str),
        8: st.integers(1, 10**8).map(str), 9: st.decimals(0, 9999, places=4).map(str), 10: st.integers(0, 999).map(str),
        11: st.integers(0, 999).map(str),
    }
)  # fmt: skip


def identified(columns: dict[int, str]) -> tuple[bytes, tuple[object, ...]]:
    """The identity of a row with these columns, and the same columns as values."""
    line = changed(0, "AAPL")
    for column, text in columns.items():
        line = changed(column, text, line)
    found = parse_message(line)
    assert isinstance(found, TradeMessage), found
    numbers = {column: float(columns[column]) for column in (5, 9)}
    return found.identity, tuple({**columns, **numbers}.values())


@given(IDENTIFYING, IDENTIFYING)
def test_two_rows_are_one_trade_exactly_when_they_agree_in_what_identifies_it(
    one: dict[int, str], two: dict[int, str]
) -> None:
    (first, values), (second, others) = identified(one), identified(two)
    assert (first == second) == (values == others)
    assert identified(one)[0] == first


@given(IDENTIFYING, st.data())
def test_a_row_that_differs_in_one_identifying_column_is_another_trade(
    columns: dict[int, str], data: st.DataObject
) -> None:
    other = data.draw(IDENTIFYING)
    column = data.draw(st.sampled_from(sorted(columns)))
    first, values = identified(columns)
    second, others = identified({**columns, column: other[column]})
    assert (first == second) == (values == others)


def test_the_primary_key_holds_the_identity_so_alike_trades_are_two_rows() -> None:
    """The replaced pipeline's key merged trades of one symbol, millisecond and premium."""
    key = re.search(r"PRIMARY KEY \((.*?)\)\) WITH", schema.TABLES["trade"])
    assert key is not None
    assert key[1] == "(symbol, trade_date, slot), ts, trade_id"


def test_requests_are_at_local_quorum_unless_they_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replaced pipeline wrote at ANY: a hint was enough."""
    monkeypatch.setattr(Cluster, "connect", lambda self, keyspace: self)
    cluster: Cluster = connect_session(["127.0.0.1"])
    assert cluster.profile_manager.default.consistency_level == ConsistencyLevel.LOCAL_QUORUM

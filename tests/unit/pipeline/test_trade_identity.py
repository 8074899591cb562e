from __future__ import annotations

import pytest

from kintsugi.pipeline.row_parser import Trade, parse_trade
from tests.unit.pipeline.test_row_parser import LINE, changed, trade

NATURAL_KEY = {
    0: "MSFT", 1: "2018-01-08 11:11:05.376", 2: "123456790", 3: "AAPL7", 4: "2018-01-26", 5: "111.000",
    6: "C",
    7: "8", 8: "11", 9: "1.3100", 10: "40", 11: "18",
}  # fmt: skip


@pytest.mark.parametrize("column", NATURAL_KEY)
def test_two_trades_that_differ_in_one_natural_column_never_merge(column: int) -> None:
    other = parse_trade(changed(column, NATURAL_KEY[column]))
    assert isinstance(other, Trade)
    assert other.trade_id != trade(LINE).trade_id


@pytest.mark.parametrize(
    ("column", "text"), [(12, "1.2"), (13, "1.4"), (14, "0.3"), (15, "-0.4"), (16, "174")]
)
def test_a_corrected_quote_is_no_other_trade(column: int, text: str) -> None:
    assert trade(changed(column, text)).trade_id == trade(LINE).trade_id


def test_the_identity_is_fixed_for_ever() -> None:
    """Stored rows are found by it: a change of the rule orphans every row in Cassandra."""
    assert trade(LINE).trade_id == "49ec79eba7a620fbc77a398adbb15ad3"


def test_a_negative_zero_price_is_a_zero_price() -> None:
    assert trade(changed(9, "-0.0")).trade_id == trade(changed(9, "0")).trade_id

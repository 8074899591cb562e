from __future__ import annotations

import pytest

from kintsugi.pipeline import row_parser
from kintsugi.pipeline.ingest import trade_header
from kintsugi.pipeline.row_parser import parse_trade
from tests.unit.pipeline.test_row_parser import LINE, trade

HEADER = ",".join(row_parser.HEAD_COLUMNS)


def test_headers_are_known_and_their_faults_named() -> None:
    assert trade_header.is_header("\ufeff" + HEADER.upper())
    assert trade_header.header_fault(HEADER + ",more") is None
    assert not trade_header.is_header(LINE)
    fault = trade_header.header_fault(HEADER.replace("trade_size", "quantity"))
    assert fault is not None
    assert "trade_size" in fault


@pytest.mark.parametrize(
    "header",
    [
        HEADER, HEADER.rpartition(",")[0], HEADER + ",", HEADER.title(), HEADER.upper(),
        HEADER.replace(",", ", "), HEADER.replace("_", " ").title(), " " + HEADER,
        ",".join(f'"{name}"' for name in row_parser.HEAD_COLUMNS),
        HEADER + ",{exchange_id,bid_size,bid,ask_size,ask}[number_of_exchanges]",
    ],
)  # fmt: skip
def test_one_header_is_written_in_many_ways(header: str) -> None:
    assert trade_header.is_header(header)
    assert trade_header.header_fault(header) is None
    assert trade_header.unknown_columns(header) == {}


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_another_separator_is_named(mark: str) -> None:
    header = HEADER.replace(",", mark)
    assert trade_header.is_header(header)
    assert repr(mark) in str(trade_header.header_fault(header))


def test_a_column_in_the_place_of_the_count_is_not_taken_for_it() -> None:
    header = HEADER.replace("number_of_exchanges", "venue")
    assert trade_header.header_fault(header) is None
    assert trade_header.unknown_columns(header) == {18: "venue"}


def test_an_unknown_column_is_taken_out_and_a_renamed_missing_or_moved_one_is_a_fault() -> None:
    names = list(row_parser.HEAD_COLUMNS)
    more = ",".join([*names[:3], "venue", *names[3:15], '"memo"', *names[15:], "{exchange_id,bid}[n]"])
    assert trade_header.header_fault(more) is None
    assert trade_header.unknown_columns(more) == {3: "venue", 16: "memo"}
    assert trade_header.unknown_columns(",".join(names) + ",after,the,exchanges") == {}
    cells = LINE.split(",")
    wide = ",".join([*cells[:3], "XNYS", *cells[3:15], '"a, ""b"""', *cells[15:]])
    assert parse_trade(trade_header.drop_columns(wide, {3, 16})) == trade(LINE)
    assert trade_header.drop_columns('AAPL,"b', {0}) == 'AAPL,"b'
    moved = [names[1], names[0], *names[2:]]
    for header, index, expected in (
        (moved, 0, names[0]),
        ([names[0], *names], 1, names[1]),
        ([name for name in names if name != "trade_iv"], names.index("trade_iv"), "trade_iv"),
    ):
        assert f"column {index} must be {expected}" in str(trade_header.header_fault(",".join(header)))

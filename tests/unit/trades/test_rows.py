"""Each known fault of the pipeline that this one replaces has a test here or in tests/spark."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.trades import rows
from kintsugi.trades.rows import Reason, Rejection, Trade, message, parse

EXCHANGES = "2,5,10,1.2500,12,1.3500,7,1,1.2000,2,1.4000"
LINE = (
    "AAPL,2018-01-08 11:11:05.375,123456789,AAPL,2018-01-19,110.000,P,7,10,1.3000,18,0,1.2500,1.3500,"
    f"0.2345,-0.3456,174.1000,174.1200,{EXCHANGES}"
)


def changed(column: int, text: str, line: str = LINE) -> str:
    fields = line.split(",")
    fields[column] = text
    return ",".join(fields)


def same(line: str) -> None:
    """The fast way says what the careful way says."""
    found, parsed = message(line), parse(line)
    if isinstance(parsed, Rejection):
        assert found == parsed
        return
    assert not isinstance(found, Rejection), found
    assert orjson.loads(found.value) == orjson.loads(orjson.dumps(parsed))
    assert found.value.startswith(b'{"trade_id":"%s","symbol":"' % parsed.trade_id.encode())
    assert (found.identity.hex(), found.ts, found.symbol) == (parsed.trade_id, parsed.ts, parsed.symbol)


def trade(line: str) -> Trade:
    same(line)
    parsed = parse(line)
    assert isinstance(parsed, Trade), parsed
    return parsed


def reason(line: str) -> Reason:
    same(line)
    parsed = parse(line)
    assert isinstance(parsed, Rejection), parsed
    return parsed.reason


def test_a_line_becomes_a_trade_with_every_column() -> None:
    found = trade(LINE)
    assert (found.symbol, found.root, found.expiration, found.option_type) == (
        "AAPL",
        "AAPL",
        "2018-01-19",
        "P",
    )
    assert (found.strike, found.size, found.price, found.bid, found.ask) == (110.0, 10, 1.3, 1.25, 1.35)
    assert (found.iv, found.delta, found.underlying_bid, found.underlying_ask) == (
        0.2345,
        -0.3456,
        174.1,
        174.12,
    )
    assert (found.sequence, found.exchange, found.condition, found.canceled_condition) == (
        123456789,
        7,
        18,
        0,
    )
    assert found.exchanges == 2
    message = orjson.loads(orjson.dumps(found))
    assert next(iter(message)) == "trade_id"
    assert message["ts"] == 1515427865375


@pytest.mark.parametrize(
    ("clock", "utc_ms", "slot"),
    [
        ("2018-01-08 09:30:00.000", 1515421800000, 38),
        ("2018-01-08 15:59:59.999", 1515445199999, 63),  # the replaced pipeline read hours as 12-hour
        ("2018-07-09 09:30:00.000", 1531143000000, 38),  # daylight saving time
        ("2018-03-12 09:30:00.000", 1520861400000, 38),  # the first session after the change
        ("2018-01-08 16:15:00.000", 1515446100000, 65),
    ],
)
def test_times_are_new_york_wall_clock_on_a_24_hour_clock(clock: str, utc_ms: int, slot: int) -> None:
    found = trade(changed(1, clock, changed(4, "2019-01-18")))
    assert (found.ts, found.slot, found.trade_date) == (utc_ms, slot, clock[:10])


@pytest.mark.parametrize("clock", ["2018-03-11 02:00:00.000", "2018-03-11 02:59:59.999"])
def test_an_hour_that_daylight_saving_skips_does_not_exist(clock: str) -> None:
    assert reason(changed(1, clock, changed(4, "2019-01-18"))) is Reason.TIME
    assert reason(changed(1, f'"{clock}"', changed(4, "2019-01-18"))) is Reason.TIME


@pytest.mark.parametrize(
    ("clock", "utc_ms"),
    [
        ("2018-03-11 01:59:59.999", 1520751599999),
        ("2018-03-11 03:00:00.000", 1520751600000),  # the next millisecond
        ("2018-11-04 00:59:59.999", 1541307599999),
        ("2018-11-04 01:00:00.000", 1541307600000),  # of the two hours of this name, the first
        ("2018-11-04 01:59:59.999", 1541311199999),
        ("2018-11-04 02:00:00.000", 1541314800000),  # the second one has passed
    ],
)
def test_both_switches_of_daylight_saving(clock: str, utc_ms: int) -> None:
    assert trade(changed(1, clock, changed(4, "2019-01-18"))).ts == utc_ms


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        (0, "aapl!", Reason.SYMBOL), (0, "", Reason.SYMBOL), (1, "01/08/2018 11:11:05", Reason.TIME),
        (1, "2018-02-30 11:11:05.375", Reason.TIME), (1, "2018-01-08 25:11:05.375", Reason.TIME),
        (1, "2018-01-08 11:60:05.375", Reason.TIME), (2, "12a", Reason.NUMBER),
        (4, "2018-13-19", Reason.DATE),
        (4, "19.01.2018", Reason.DATE), (4, "2017-01-19", Reason.EXPIRED), (5, "strike", Reason.NUMBER),
        (5, "0", Reason.RANGE), (6, "X", Reason.OPTION_TYPE), (8, "ten", Reason.NUMBER),
        (8, "0", Reason.RANGE),
        (8, "1.5", Reason.NUMBER), (9, "-1.0", Reason.RANGE), (9, "nan", Reason.NUMBER),
        (9, "1_0", Reason.NUMBER),
        (9, "1e99", Reason.RANGE), (8, "99999999999", Reason.RANGE), (15, "1.5", Reason.RANGE),
        (18, "3", Reason.COLUMNS), (18, "x", Reason.NUMBER), (20, "x", Reason.NUMBER),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(column: int, text: str, expected: Reason) -> None:
    assert reason(changed(column, text)) is expected


def test_a_missing_field_and_an_empty_line_are_named() -> None:
    fields = LINE.split(",")
    assert reason(",".join(fields[:5] + fields[6:])) is Reason.COLUMNS
    assert reason(",".join(fields[:10])) is Reason.COLUMNS
    assert reason("") is Reason.COLUMNS
    assert reason(LINE.replace("AAPL", '"AAPL', 1)) is Reason.QUOTING


def test_quotes_spaces_and_other_spellings_of_a_number_are_the_same_trade() -> None:
    expected = trade(LINE)
    quoted = ",".join(f'"{field}"' for field in LINE.split(","))
    spelled = changed(5, "110", changed(9, "1.30", changed(8, "10.0", LINE)))
    for line in (quoted, spelled, changed(6, "p"), changed(1, "2018-01-08T11:11:05.375000")):
        assert trade(line) == expected


def test_index_symbols_carry_a_caret_and_classes_a_slash() -> None:
    assert trade(changed(0, "^SPX")).symbol == "^SPX"
    assert trade(changed(0, "BRK/B")).symbol == "BRK/B"


@pytest.mark.parametrize("number", [0, 1, 16])
def test_the_number_of_exchanges_decides_the_width(number: int) -> None:
    head = LINE.split(",")[:18]
    tail = [str(number), *itertools.chain.from_iterable([["5", "10", "1.25", "12", "1.35"]] * number)]
    assert trade(",".join(head + tail)).exchanges == number


def test_a_trade_on_its_expiration_day_is_lawful() -> None:
    assert trade(changed(4, "2018-01-08")).expiration == "2018-01-08"


def test_only_conditions_40_to_44_cancel() -> None:
    assert [rows.is_cancel(trade(changed(10, str(c)))) for c in (39, 40, 44, 45)] == [
        False,
        True,
        True,
        False,
    ]


def test_headers_are_known_and_their_faults_named() -> None:
    header = ",".join(rows.HEAD_COLUMNS)
    assert rows.is_header("\ufeff" + header.upper())
    assert rows.header_fault(header + ",more") is None
    assert not rows.is_header(LINE)
    fault = rows.header_fault(header.replace("trade_size", "quantity"))
    assert fault == "column 8 must be trade_size, but the header says 'quantity'"


@given(st.text(max_size=300))
def test_no_text_crashes_the_parser(text: str) -> None:
    assert isinstance(parse(text), Rejection)


@given(st.integers(0, 18), st.text(alphabet='0123456789.-+eE^ACP /:"\u0660x', max_size=12))
def test_one_changed_field_is_a_trade_or_has_a_reason(column: int, text: str) -> None:
    found = parse(changed(column, text))
    assert isinstance(found, (Trade, Rejection))


def test_an_unknown_column_is_taken_out_and_a_renamed_missing_or_moved_one_is_a_fault() -> None:
    names = list(rows.HEAD_COLUMNS)
    more = ",".join([*names[:3], "venue", *names[3:15], '"memo"', *names[15:], "{exchange_id,bid}[n]"])
    assert rows.header_fault(more) is None
    assert rows.unknown_columns(more) == {3: "venue", 16: "memo"}
    assert rows.unknown_columns(",".join(names) + ",after,the,exchanges") == {}
    cells = LINE.split(",")
    wide = ",".join([*cells[:3], "XNYS", *cells[3:15], '"a, ""b"""', *cells[15:]])
    assert parse(rows.without(wide, {3, 16})) == trade(LINE)
    assert rows.without('AAPL,"b', {0}) == 'AAPL,"b'
    moved = [names[1], names[0], *names[2:]]
    assert "moved or doubled" in str(rows.header_fault(",".join(moved)))
    assert "moved or doubled" in str(rows.header_fault(",".join([names[0], *names])))
    assert "must be trade_iv" in str(rows.header_fault(",".join(n for n in names if n != "trade_iv")))


def test_an_exchange_and_a_condition_that_nobody_knew_are_taken() -> None:
    new = changed(7, "299", changed(19, "4711", changed(10, "999")))
    assert (trade(new).exchange, trade(new).condition) == (299, 999)


def test_the_volatility_is_stored_as_delivered_even_where_it_is_zero() -> None:
    """The replaced pipeline overwrote trade_iv."""
    assert [trade(changed(14, iv)).iv for iv in ("0.2345", "0", "0.0000")] == [0.2345, 0.0, 0.0]


NUMBERS = ["0", "-0", "0.0", "-0.0", "00", "007", "1.", ".5", "1e2", "-1", "1.0000", "+1", "1.2.3", "", " 1"]


@pytest.mark.parametrize("column", range(29))
@pytest.mark.parametrize(
    "text", [*NUMBERS, "9" * 9, "9" * 10, "9" * 16, "9" * 19, "60", "99", "\u0661", "\0"]
)
def test_the_message_is_the_parsed_trade_at_every_edge(column: int, text: str) -> None:
    same(changed(column, text))


@given(st.integers(0, 28), st.text(alphabet='0123456789.-+eE^ACP /:"\u0660x', max_size=12))
def test_the_message_is_the_parsed_trade_or_its_rejection(column: int, text: str) -> None:
    same(changed(column, text))


@given(
    strike=st.decimals("0.5", 99999, places=3), price=st.decimals(0, 9999, places=4),
    size=st.integers(1, 10**6),
    delta=st.decimals(-1, 1, places=4),
)  # fmt: skip
def test_the_fast_and_the_careful_way_agree(strike: object, price: object, size: int, delta: object) -> None:
    line = changed(5, str(strike), changed(9, str(price), changed(8, str(size), changed(15, str(delta)))))
    assert rows._LINE(line) is not None or "E" in line or "-0" in line
    assert parse(line) == parse(line.replace("AAPL", '"AAPL"', 1))

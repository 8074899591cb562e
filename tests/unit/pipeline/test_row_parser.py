"""Each known fault of the pipeline that this one replaces has a test here or in tests/spark."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.pipeline import row_parser
from kintsugi.pipeline.row_parser import Reason, Rejection, Trade, parse_message, parse_trade

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
    found, parsed = parse_message(line), parse_trade(line)
    if isinstance(parsed, Rejection):
        assert found == parsed
        return
    assert not isinstance(found, Rejection), found
    assert orjson.loads(found.value) == orjson.loads(orjson.dumps(parsed))
    assert found.value.startswith(b'{"trade_id":"%s","symbol":"' % parsed.trade_id.encode())
    assert (found.identity.hex(), found.ts, found.symbol) == (parsed.trade_id, parsed.ts, parsed.symbol)


def trade(line: str) -> Trade:
    same(line)
    parsed = parse_trade(line)
    assert isinstance(parsed, Trade), parsed
    return parsed


def reason(line: str) -> Reason:
    same(line)
    parsed = parse_trade(line)
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
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(column: int, text: str, expected: Reason) -> None:
    assert reason(changed(column, text)) is expected


def test_a_missing_field_and_an_empty_line_are_named() -> None:
    fields = LINE.split(",")
    assert reason(",".join(fields[:5] + fields[6:])) is Reason.OPTION_TYPE  # all that follows has moved
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


HEAD = ",".join(LINE.split(",")[:18])


@pytest.mark.parametrize(
    ("tail", "exchanges"),
    [
        ("", None), (",", None), (",,,,,,", None), (",,5,10,1.25,12,1.35", None), (",0", 0),
        (",0,5,10,1.25,12,1.35", 0),
        (",1,5,10,1.25,12,1.35", 1), (",16", 16), (",64", 64), (",65", None), (",-1", None), (",2.5", None),
        (",x", None),
        (',2,"5,10', 2), (',"2","x""', 2), (",1,caf\u00e9,\udce9,nan,\0", 1), (f",3{',9' * 3000}", 3),
    ],
)  # fmt: skip
def test_what_stands_to_the_right_of_the_used_columns_costs_no_trade(
    tail: str, exchanges: int | None
) -> None:
    found = trade(HEAD + tail)
    assert (found.exchanges, found.trade_id, found.delta) == (exchanges, trade(LINE).trade_id, -0.3456)


@pytest.mark.parametrize("quoted", [False, True])
def test_broken_quotes_cost_a_trade_only_in_a_used_column(quoted: bool) -> None:
    head = ",".join(f'"{cell}"' for cell in HEAD.split(",")) if quoted else HEAD
    assert trade(head + ',2,"5').trade_id == trade(LINE).trade_id
    assert reason(head.replace("174.1200", '"174.12', 1) + ",2") is Reason.QUOTING


@pytest.mark.parametrize(
    ("bid", "ask"), [("", ""), ("", "174.12"), ("x", "174.12"), ("174.1", "nan"), ("-1", "2")]
)
def test_an_underlying_without_a_quote_costs_no_trade(bid: str, ask: str) -> None:
    found = trade(changed(16, bid, changed(17, ask)))
    assert (found.underlying_bid, found.underlying_ask) == (None, None)
    assert found.trade_id == trade(LINE).trade_id


def test_digits_below_the_millisecond_are_in_the_identity_only() -> None:
    times = ("2018-01-08 11:11:05.375", "2018-01-08 11:11:05.375456", "2018-01-08 11:11:05.375457",
             "2018-01-08 11:11:05.375456789")  # fmt: skip
    found = [trade(changed(1, text)) for text in times]
    assert {one.ts for one in found} == {1515427865375}
    assert len({one.trade_id for one in found}) == 4
    for again in ("2018-01-08 11:11:05.375000", "2018-01-08 11:11:05.375000000000"):
        assert trade(changed(1, again)).trade_id == found[0].trade_id
    assert trade(changed(1, "2018-01-08T11:11:05.3754560")).trade_id == found[1].trade_id


@pytest.mark.parametrize(
    ("day", "expiration", "expected"),
    [
        ("9999-12-31", "2018-01-19", Reason.TIME), ("9999-12-31", "9999-12-31", Reason.TIME),
        ("2118-01-08", "2118-01-19", Reason.TIME), ("2100-01-01", "2100-01-19", Reason.TIME),
        ("1973-04-25", "1973-05-19", Reason.TIME), ("0001-01-01", "0001-01-19", Reason.TIME),
        ("0000-01-01", "2018-01-19", Reason.TIME), ("2018-01-08", "9999-12-31", Reason.DATE),
        ("2018-01-08", "2038-12-31", Reason.DATE), ("2018-01-20", "2018-01-19", Reason.EXPIRED),
    ],
)  # fmt: skip
def test_days_on_which_no_option_trades_are_rejected(day: str, expiration: str, expected: Reason) -> None:
    assert reason(changed(1, f"{day} 11:11:05.375", changed(4, expiration))) is expected


@pytest.mark.parametrize("day", ["1973-04-26", "2099-12-31"])
def test_the_first_and_the_last_day_are_taken(day: str) -> None:
    assert trade(changed(1, f"{day} 11:11:05.375", changed(4, day))).trade_date == day


def test_a_trade_of_the_night_is_in_its_own_day_and_slot() -> None:
    found = trade(changed(0, "^SPX", changed(1, "2018-01-08 03:15:00.250")))
    assert (found.trade_date, found.slot, found.ts) == ("2018-01-08", 13, 1515399300250)


@pytest.mark.parametrize("column", range(18))
def test_a_byte_that_is_no_utf8_in_a_used_column_is_named(column: int) -> None:
    found = parse_trade(changed(column, LINE.split(",")[column] + "\udce9"))
    if column in (16, 17):  # stored and not used
        assert isinstance(found, Trade)
    else:
        assert isinstance(found, Rejection)
        assert found.reason is Reason.ENCODING
        found.text.encode()


@pytest.mark.parametrize("column", [5, 9, 12, 13, 14])
def test_a_billion_dollars_is_out_of_range(column: int) -> None:
    assert reason(changed(column, "1000000000")) is Reason.RANGE


def test_a_trade_on_its_expiration_day_is_lawful() -> None:
    assert trade(changed(4, "2018-01-08")).expiration == "2018-01-08"


def test_only_conditions_40_to_44_cancel() -> None:
    assert [row_parser.is_cancel(trade(changed(10, str(c)))) for c in (39, 40, 44, 45)] == [
        False,
        True,
        True,
        False,
    ]


@given(st.text(max_size=300))
def test_no_text_crashes_the_parser(text: str) -> None:
    assert isinstance(parse_trade(text), Rejection)


@given(st.integers(0, 18), st.text(alphabet='0123456789.-+eE^ACP /:"\u0660x', max_size=12))
def test_one_changed_field_is_a_trade_or_has_a_reason(column: int, text: str) -> None:
    found = parse_trade(changed(column, text))
    assert isinstance(found, (Trade, Rejection))


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
    assert row_parser._LINE(line) is not None or "E" in line or "-0" in line
    assert parse_trade(line) == parse_trade(line.replace("AAPL", '"AAPL"', 1))


@pytest.mark.parametrize("matcher", [row_parser._LINE, row_parser._CELL])
def test_no_group_is_possessive(matcher: Any) -> None:
    """Python 3.11.2 takes a part of such a group for all of it: ``1.`` went into Kafka, which is no number of JSON."""
    assert [found for found in (")?+", ")*+", ")++", "(?>") if found in matcher.__self__.pattern] == []

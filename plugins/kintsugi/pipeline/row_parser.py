"""Parse one line of a trade file: a Trade, or the reason why it isn't one.

The format is `UnderlyingOptionsTradesCalcs`. The first 18 columns make a trade. The columns after them (the number of
exchanges and their quotes) aren't used and reject no row: since 2022-06-13 the vendor leaves them empty.

A line is read in one of two ways. Both give the same message, which a property-based test checks.

1. `parse_message` matches a line with one regular expression, and builds the message from the text of the line. Nearly
   every line matches.
2. Every other line goes through `parse_trade`. It also understands quotes and unusual but valid numbers, and it says
   what is wrong with a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from kintsugi.core.rejections import Reason, Rejection
from kintsugi.pipeline.csv_fields import (
    DATE,
    EARLIEST,
    LATEST,
    LONGEST_LIFE_DAYS,
    NUMBER,
    SYMBOL,
    InvalidRow,
    check_expiration,
    day_ordinal,
    format_listed_days,
    parse_day,
    parse_integer,
    parse_number,
    parse_option_type,
    parse_symbol,
)
from kintsugi.pipeline.trade_identity import exact_time, identity_digest, trade_id

__all__ = [
    "CANCEL_CONDITIONS",
    "HEAD_COLUMNS",
    "NEW_YORK",
    "SLOT_MINUTES",
    "USED_COLUMNS",
    "Reason",
    "Rejection",
    "Trade",
    "TradeMessage",
    "is_cancel",
    "parse_message",
    "parse_trade",
]  # fmt: skip

NEW_YORK = ZoneInfo("America/New_York")
SLOT_MINUTES = 15
HEAD_COLUMNS = (
    "underlying_symbol", "quote_datetime", "sequence_number", "root", "expiration", "strike", "option_type",
    "exchange_id", "trade_size", "trade_price", "trade_condition_id", "canceled_trade_condition_id",
    "best_bid",
    "best_ask", "trade_iv", "trade_delta", "underlying_bid", "underlying_ask", "number_of_exchanges",
)  # fmt: skip
USED_COLUMNS = 18  # up to underlying_ask
MAX_EXCHANGES = 64
CANCEL_CONDITIONS = frozenset(range(40, 45))
# Above a billion dollars a double no longer has six exact decimals.
MAX_DOLLARS = 1e9


@dataclass(slots=True)
class Trade:
    """One trade; its fields are also those of the JSON message on the topic.

    ``trade_id``: see `trade_identity`. It is the first field, so that it can be read without parsing the message.
    ``ts``: milliseconds since 1970 UTC; finer digits are only in the identity. ``trade_date``, ``slot``: New York's
    date (``YYYY-MM-DD``) and quarter of an hour (0…95) of the trade; they select its partition in Cassandra. ``size``:
    contracts. ``price``, ``bid``, ``ask``: dollars a share. ``iv``: 0 where it can't be computed. ``delta``: negative
    for puts. ``underlying_bid``, ``underlying_ask``, ``exchanges``: only stored; None where the file has no valid
    number.
    """

    trade_id: str
    symbol: str
    ts: int
    trade_date: str
    slot: int
    sequence: int
    root: str
    expiration: str
    strike: float
    option_type: str
    exchange: int
    size: int
    price: float
    condition: int
    canceled_condition: int
    bid: float
    ask: float
    iv: float
    delta: float
    underlying_bid: float | None
    underlying_ask: float | None
    exchanges: int | None


class TradeMessage(NamedTuple):
    """The message on the topic for one trade.

    ``identity``: the 16 bytes of its `trade_id`. ``ts``: milliseconds since 1970 UTC. ``symbol``: the key of the
    message. ``value``: the JSON of a `Trade`.
    """

    identity: bytes
    ts: int
    symbol: str
    value: bytes


# Numbers in JSON's notation (no leading zero) whose form already limits them to their ranges (no sign).
_COUNT = r"(?:0|[1-9]\d{0,3}+)"
# No group is possessive, as in (?:...)?+: Python 3.11.2 (Debian 12) takes a part of such a group for all of it.
_PRICE = r"(?:0|[1-9]\d{0,8}+)(?:\.\d{1,15}+)?"
_UNIT = r"-?(?:0(?:\.\d{1,15}+)?|1(?:\.0{1,15}+)?)"
_LINE = re.compile(
    rf"({SYMBOL}),({DATE} \d\d):([0-5]\d):([0-5]\d)\.(\d\d\d)(\d{{0,9}}+),(0|[1-9]\d{{0,17}}+),({SYMBOL}),"
    rf"({DATE}),({_PRICE}),([CP]),({_COUNT}),([1-9]\d{{0,8}}+),({_PRICE}),({_COUNT}),({_COUNT}),"
    rf"({_PRICE}),({_PRICE}),({_PRICE}),({_UNIT}),({_PRICE}),({_PRICE})(?:,([1-5]\d|\d)?(?:,.*+)?)?",
    re.ASCII | re.DOTALL,
).fullmatch
_COUNT_ONLY = re.compile(r"0*\d{1,2}", re.ASCII).fullmatch
_CAREFUL_TIME = re.compile(rf"({DATE})[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{{1,12}}))?)?", re.ASCII).fullmatch
# A cell and the comma after it; a quote within a quoted cell is doubled.
_CELL = re.compile(r'\s*(?:"([^"]*+(?:""[^"]*+)*)"\s*|([^",]*+))(?:,|\Z)').match


def parse_trade(line: str) -> Trade | Rejection:
    """Parse the trade on this line (without its line end); return a Rejection if it isn't valid. Raises nothing.

    Bytes of the file that aren't UTF-8 are lone surrogates in ``line`` (PEP 383). In a used column they have a
    rejection reason of their own.
    """
    match = _LINE(line)
    try:
        if match is None:
            return _parse_carefully(line)
        f = match.groups()
        return _make_trade(
            f[0], f[1], int(f[2]), int(f[3]), f[4] + f[5], int(f[6]), f[7], f[8], float(f[9]), f[10], int(f[11]),
            int(f[12]), float(f[13]), int(f[14]), int(f[15]), float(f[16]), float(f[17]), float(f[18]),
            float(f[19]), float(f[20]), float(f[21]), None if f[22] is None else int(f[22]),
        )  # fmt: skip
    except InvalidRow as invalid:
        return _explain_rejection(line, invalid)


def parse_message(line: str) -> TradeMessage | Rejection:
    """Return the message of the trade on this line, or a Rejection: the fast way to the result of `parse_trade`."""
    match = _LINE(line)
    if match is None:
        return _parse_message_carefully(line)
    (
        symbol, hour, minute, second, millisecond, finer, sequence, root, expiration, strike, option_type, exchange,
        size, price, condition, canceled, bid, ask, iv, delta, underlying_bid, underlying_ask, exchanges,
    ) = match.groups()  # fmt: skip
    try:
        hour_ms, hour_slot, trade_day = _parse_hour(hour)
        exact_strike = _exact_number(strike)
        days_to_expiration = day_ordinal(expiration) - trade_day
    except InvalidRow as invalid:
        return invalid.rejection
    if not 0 <= days_to_expiration <= LONGEST_LIFE_DAYS or exact_strike == "0.0":
        return _parse_message_carefully(line)
    trade_date = hour[:10]
    minutes = int(minute)
    ts = hour_ms + minutes * 60_000 + int(second) * 1_000 + int(millisecond)
    identity = identity_digest(
        symbol, exact_time(ts, finer) if finer else ts, sequence, root, expiration, exact_strike, option_type,
        exchange, size, _exact_number(price), condition, canceled,
    )  # fmt: skip
    value = (
        f'{{"trade_id":"{identity.hex()}","symbol":"{symbol}","ts":{ts},"trade_date":"{trade_date}",'
        f'"slot":{hour_slot + minutes // SLOT_MINUTES},"sequence":{sequence},"root":"{root}",'
        f'"expiration":"{expiration}","strike":{strike},"option_type":"{option_type}","exchange":{exchange},'
        f'"size":{size},"price":{price},"condition":{condition},"canceled_condition":{canceled},'
        f'"bid":{bid},"ask":{ask},"iv":{iv},"delta":{delta},"underlying_bid":{underlying_bid},'
        f'"underlying_ask":{underlying_ask},"exchanges":{exchanges or "null"}}}'
    )
    return TradeMessage(identity, ts, symbol, value.encode())


def is_cancel(trade: Trade) -> bool:
    """Whether this row cancels another trade (OPRA conditions 40 to 44)."""
    return trade.condition in CANCEL_CONDITIONS


def _explain_rejection(line: str, invalid: InvalidRow) -> Rejection:
    """Return the rejection of a line; if its used columns aren't UTF-8, the reason is the encoding."""
    used = ",".join(line.split(",", USED_COLUMNS)[:USED_COLUMNS])
    try:
        used.encode()
    except UnicodeEncodeError as error:
        byte = ord(used[error.start]) & 0xFF
        text = f"character {error.start} of the line, the byte 0x{byte:02x}, is not UTF-8: {invalid}"
        return Rejection(Reason.ENCODING, text)
    return invalid.rejection


def _parse_message_carefully(line: str) -> TradeMessage | Rejection:
    import orjson

    trade = parse_trade(line)
    if isinstance(trade, Rejection):
        return trade
    return TradeMessage(bytes.fromhex(trade.trade_id), trade.ts, trade.symbol, orjson.dumps(trade))


@lru_cache(maxsize=65536)
def _exact_number(number: str) -> str:
    """Return a strike or price in the spelling of the identity."""
    return repr(float(number))


def _make_trade(
    symbol: str, hour: str, minute: int, second: int, fraction: str, sequence: int, root: str, expiration: str,
    strike: float, option_type: str, exchange: int, size: int, price: float, condition: int, canceled: int,
    bid: float, ask: float, iv: float, delta: float, underlying_bid: float | None,
    underlying_ask: float | None, exchanges: int | None,
) -> Trade:  # fmt: skip
    hour_ms, hour_slot, trade_day = _parse_hour(hour)
    if minute > 59 or second > 59:
        raise InvalidRow(Reason.TIME, f"no such time of day: {hour}:{minute}:{second}")
    check_expiration(expiration, trade_day)
    if not (
        0 < strike < MAX_DOLLARS and 0 <= price < MAX_DOLLARS and 0 <= bid < MAX_DOLLARS and 0 <= ask < MAX_DOLLARS
        and 0 <= iv < MAX_DOLLARS and -1 <= delta <= 1 and 0 < size < 2**31 and 0 <= exchange < 2**15
        and 0 <= condition < 2**15 and 0 <= canceled < 2**15
    ):  # fmt: skip
        raise InvalidRow(
            Reason.RANGE,
            "a number is out of range; valid are size and strike > 0, prices and iv >= 0, |delta| <= 1",
        )
    price += 0.0  # turns -0.0 into 0.0, which is the same price
    ts = hour_ms + minute * 60_000 + second * 1_000 + int(fraction[:3])
    identity = trade_id(
        symbol, exact_time(ts, fraction[3:]), sequence, root, expiration, strike, option_type, exchange, size,
        price, condition, canceled,
    )  # fmt: skip
    return Trade(
        identity, symbol, ts, hour[:10], hour_slot + minute // SLOT_MINUTES, sequence, root, expiration, strike,
        option_type, exchange, size, price, condition, canceled, bid, ask, iv, delta, underlying_bid,
        underlying_ask, exchanges,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _parse_hour(text: str) -> tuple[int, int, int]:
    """Parse an hour of New York's wall clock, ``2018-01-08 11``; raises InvalidRow.

    Returns the milliseconds UTC at its start, its first slot, and the ordinal of the day. An hour that daylight saving
    skips is rejected. If daylight saving repeats an hour, the first one is meant. No options trade in either.
    """
    try:
        local = datetime.strptime(text, "%Y-%m-%d %H").replace(tzinfo=NEW_YORK)
    except ValueError:
        raise InvalidRow(Reason.TIME, f"no such date and hour: {text}") from None
    day = local.toordinal()
    if not EARLIEST <= day <= LATEST:
        raise InvalidRow(Reason.TIME, f"the date of the trade is {text[:10]}; {format_listed_days()}")
    instant = local.astimezone(UTC)
    if instant.astimezone(NEW_YORK).hour != local.hour:
        raise InvalidRow(Reason.TIME, f"New York's clocks skip the hour {text}")
    return int(instant.timestamp()) * 1000, local.hour * 60 // SLOT_MINUTES, day


def _parse_carefully(line: str) -> Trade:
    """Parse a line that may have quotes, spaces and unusual numbers; raises InvalidRow for the first fault."""
    cells = _leading_cells(line)
    if len(cells) < USED_COLUMNS:
        raise InvalidRow(Reason.COLUMNS, f"{len(cells)} columns, but a trade has at least {USED_COLUMNS}")
    symbol, root = _symbol_cell(cells, 0), _symbol_cell(cells, 3)
    hour, minute, second, fraction = _parse_time(cells[1])
    parse_day(cells[4], HEAD_COLUMNS[4])
    option_type = parse_option_type(cells[6])
    return _make_trade(
        symbol, hour, minute, second, fraction, _integer_cell(cells, 2), root, cells[4], _number_cell(cells, 5),
        option_type, _integer_cell(cells, 7), _integer_cell(cells, 8), _number_cell(cells, 9),
        _integer_cell(cells, 10), _integer_cell(cells, 11), _number_cell(cells, 12), _number_cell(cells, 13),
        _number_cell(cells, 14), _number_cell(cells, 15),
        *_underlying_quote(cells[16], cells[17]), _unused_count(cells[USED_COLUMNS:]),
    )  # fmt: skip


def _underlying_quote(bid: str, ask: str) -> tuple[float | None, float | None]:
    """Return the underlying's quote, which is only stored; None for both if one isn't a price."""
    values = [float(text) if NUMBER(text) else -1.0 for text in (bid, ask)]
    return (values[0], values[1]) if all(0 <= value < MAX_DOLLARS for value in values) else (None, None)


def _unused_count(cells: list[str]) -> int | None:
    """Return the number of exchanges, which is only stored; None if it isn't valid."""
    value = int(cells[0]) if cells and _COUNT_ONLY(cells[0]) else None
    return value if value is not None and value <= MAX_EXCHANGES else None


def _leading_cells(line: str) -> list[str]:
    """Return the used columns and the one after them, without quotes and spaces; later columns aren't read."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(",", USED_COLUMNS + 1)[: USED_COLUMNS + 1]]
    cells: list[str] = []
    position = 0
    while len(cells) <= USED_COLUMNS:
        match = _CELL(line, position)
        if match is None:
            if len(cells) == USED_COLUMNS:
                break  # only quotes after the used columns are wrong
            raise InvalidRow(Reason.QUOTING, f"the quotes of column {len(cells)} don't match")
        cells.append((match[2] if match[1] is None else match[1].replace('""', '"')).strip())
        position = match.end()
        if not match[0].endswith(","):
            break
    return cells


def _parse_time(text: str) -> tuple[str, int, int, str]:
    match = _CAREFUL_TIME(text)
    if match is None:
        raise InvalidRow(Reason.TIME, f"quote_datetime is {text[:40]!r}, not YYYY-MM-DD HH:MM:SS.mmm")
    day, hour, minute, second, fraction = match.groups()
    return f"{day} {hour}", int(minute), int(second or 0), (fraction or "").ljust(3, "0")


def _symbol_cell(cells: list[str], index: int) -> str:
    return parse_symbol(cells[index], HEAD_COLUMNS[index])


def _number_cell(cells: list[str], index: int) -> float:
    return parse_number(cells[index], HEAD_COLUMNS[index])


def _integer_cell(cells: list[str], index: int) -> int:
    return parse_integer(cells[index], HEAD_COLUMNS[index])

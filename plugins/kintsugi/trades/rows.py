"""One line of a trade file → a Trade, or the reason why it isn't one.

The format is `UnderlyingOptionsTradesCalcs` (19 columns and five more for every exchange). Two ways read
a line: `message` recognises by one regular expression what practically every line looks like, and makes
the message from its very text; whatever doesn't match goes through `parse`, which understands quotes and
odd but lawful numbers, and names what is wrong. Both give the same message (a property-based test).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from kintsugi.trades.identity import digest, trade_id

NEW_YORK = ZoneInfo("America/New_York")
SLOT_MINUTES = 15
HEAD_COLUMNS = (
    "underlying_symbol", "quote_datetime", "sequence_number", "root", "expiration", "strike", "option_type",
    "exchange_id", "trade_size", "trade_price", "trade_condition_id", "canceled_trade_condition_id",
    "best_bid",
    "best_ask", "trade_iv", "trade_delta", "underlying_bid", "underlying_ask", "number_of_exchanges",
)  # fmt: skip
EXCHANGE_COLUMNS = 5
MAX_EXCHANGES = 64
CANCEL_CONDITIONS = frozenset(range(40, 45))


class Reason(StrEnum):
    """Why a row or a file was rejected."""

    ENCODING = "encoding"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_LONG = "too-long"
    EXPANSION = "expansion"
    HEADER = "header"
    QUOTING = "quoting"
    COLUMNS = "columns"
    SYMBOL = "symbol"
    TIME = "time"
    DATE = "date"
    OPTION_TYPE = "option-type"
    NUMBER = "number"
    RANGE = "range"
    EXPIRED = "expired"


@dataclass(slots=True)
class Trade:
    """One trade, as it travels: also the JSON message on the topic, field by field.

    ``trade_id``: see `identity`; the first field, so that a reader can cut it out without parsing.
    ``ts``: milliseconds since 1970 UTC. ``trade_date``, ``slot``: New York's date (``YYYY-MM-DD``) and
    quarter of an hour (0…95) of the trade, which choose its partition in Cassandra. ``size``: contracts.
    ``price``, ``bid``, ``ask``: dollars a share. ``iv``: 0 where it can't be computed. ``delta``:
    negative for puts.
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
    underlying_bid: float
    underlying_ask: float
    exchanges: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a line is no trade: a slug to count by, and a sentence for the person who reads the dead letter."""

    reason: Reason
    text: str


class Message(NamedTuple):
    """What goes to the topic for one trade.

    ``identity``: the 16 bytes of its `trade_id`. ``ts``: milliseconds since 1970 UTC. ``symbol``: the
    message's key. ``value``: the JSON of a `Trade`.
    """

    identity: bytes
    ts: int
    symbol: str
    value: bytes


_SYMBOL = r"\^?[A-Z0-9][A-Z0-9./-]{0,15}"
_DATE = r"\d{4}-\d\d-\d\d"
_INT = r"-?\d{1,18}"
# Numbers as JSON spells them, and by their very form within their ranges: no sign, no leading zero.
_COUNT = r"(?:0|[1-9]\d{0,3}+)"
_PRICE = r"(?:0|[1-9]\d{0,14}+)(?:\.\d{1,15}+)?+"
_UNIT = r"-?(?:0(?:\.\d{1,15}+)?+|1(?:\.0{1,15}+)?+)"
_LINE = re.compile(
    rf"({_SYMBOL}),({_DATE} \d\d):([0-5]\d):([0-5]\d)\.(\d\d\d),(0|[1-9]\d{{0,17}}+),({_SYMBOL}),({_DATE}),"
    rf"({_PRICE}),([CP]),({_COUNT}),([1-9]\d{{0,8}}+),({_PRICE}),({_COUNT}),({_COUNT}),"
    rf"({_PRICE}),({_PRICE}),({_PRICE}),({_UNIT}),({_PRICE}),({_PRICE}),(\d|[1-5]\d)((?:,[\d.]++)*+)",
    re.ASCII,
).fullmatch
_SYMBOL_ONLY = re.compile(_SYMBOL, re.ASCII).fullmatch
_EXCHANGE_CELL = re.compile(r"[\d.]+", re.ASCII).fullmatch
_CAREFUL_TIME = re.compile(rf"({_DATE})[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{{1,3}})0*)?)?", re.ASCII).fullmatch
_CAREFUL_NUMBER = re.compile(
    r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?", re.ASCII
).fullmatch


class _Bad(Exception):
    """Inside this module only: carries a Rejection to `parse`."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.rejection = Rejection(reason, text)


def parse(line: str) -> Trade | Rejection:
    """The trade on this line (without its line end), or why it is none. Raises nothing."""
    match = _LINE(line)
    try:
        if match is None:
            return _careful(line)
        f = match.groups()
        exchanges = int(f[21])
        if f[22].count(",") != exchanges * EXCHANGE_COLUMNS:
            raise _Bad(Reason.COLUMNS, _columns_text(exchanges, len(HEAD_COLUMNS) + f[22].count(",")))
        return _trade(
            f[0], f[1], int(f[2]), int(f[3]), int(f[4]), int(f[5]), f[6], f[7], float(f[8]), f[9], int(f[10]),
            int(f[11]), float(f[12]), int(f[13]), int(f[14]), float(f[15]), float(f[16]), float(f[17]),
            float(f[18]), float(f[19]), float(f[20]), exchanges,
        )  # fmt: skip
    except _Bad as bad:
        return bad.rejection


def message(line: str) -> Message | Rejection:
    """The message of the trade on this line, or why it is none; the fast way to what `parse` says."""
    match = _LINE(line)
    if match is None:
        return _careful_message(line)
    (
        symbol, hour, minute, second, millisecond, sequence, root, expiration, strike, option_type, exchange,
        size, price, condition, canceled, bid, ask, iv, delta, underlying_bid, underlying_ask, exchanges, tail,
    ) = match.groups()  # fmt: skip
    try:
        hour_ms, hour_slot = _hour(hour)
        trade_date = hour[:10]
        exact_strike = _exact(strike)
        lawful = (
            _day(expiration) >= _day(trade_date)
            and exact_strike != "0.0"
            and tail.count(",") == int(exchanges) * EXCHANGE_COLUMNS
        )
    except _Bad as bad:
        return bad.rejection
    if not lawful:
        return _careful_message(line)
    minutes = int(minute)
    ts = hour_ms + minutes * 60_000 + int(second) * 1_000 + int(millisecond)
    identity = digest(
        symbol, ts, sequence, root, expiration, exact_strike, option_type, exchange, size, _exact(price),
        condition, canceled,
    )  # fmt: skip
    value = (
        f'{{"trade_id":"{identity.hex()}","symbol":"{symbol}","ts":{ts},"trade_date":"{trade_date}",'
        f'"slot":{hour_slot + minutes // SLOT_MINUTES},"sequence":{sequence},"root":"{root}",'
        f'"expiration":"{expiration}","strike":{strike},"option_type":"{option_type}","exchange":{exchange},'
        f'"size":{size},"price":{price},"condition":{condition},"canceled_condition":{canceled},'
        f'"bid":{bid},"ask":{ask},"iv":{iv},"delta":{delta},"underlying_bid":{underlying_bid},'
        f'"underlying_ask":{underlying_ask},"exchanges":{exchanges}}}'
    )
    return Message(identity, ts, symbol, value.encode())


def _careful_message(line: str) -> Message | Rejection:
    import orjson

    trade = parse(line)
    if isinstance(trade, Rejection):
        return trade
    return Message(bytes.fromhex(trade.trade_id), trade.ts, trade.symbol, orjson.dumps(trade))


@lru_cache(maxsize=65536)
def _exact(number: str) -> str:
    """The one spelling of a strike or price in an identity."""
    return repr(float(number))


def is_header(line: str) -> bool:
    """Whether this first line of a file names columns instead of holding a trade."""
    return line.lstrip('\ufeff"').lower().startswith(HEAD_COLUMNS[0])


def header_fault(line: str) -> str | None:
    """What is wrong with this header, as a sentence; None if the known columns are there, in their order.

    A renamed, missing or moved column is a fault: columns are told apart by place, and to guess would fill
    tables with wrong numbers in silence. An unknown column beside the known ones is none.
    """
    names = _header_names(line)
    missing = [name for name in HEAD_COLUMNS if name not in names]
    if missing:
        index = HEAD_COLUMNS.index(missing[0])
        found = names[index] if index < len(names) else "nothing"
        return f"column {index} must be {missing[0]}, but the header says {found[:40]!r}"
    known = [name for name in names if name in HEAD_COLUMNS]
    for index, (name, expected) in enumerate(zip(known, HEAD_COLUMNS, strict=False)):
        if name != expected:
            return (
                f"column {index} must be {expected}, but the header says {name!r}: moved or doubled columns"
            )
    return None


def unknown_columns(line: str) -> dict[int, str]:
    """The columns of a faultless header that stand among the known ones and aren't known: name by place."""
    names = _header_names(line)
    end = names.index(HEAD_COLUMNS[-1])  # what comes after describes the exchanges
    return {index: name for index, name in enumerate(names[:end]) if name not in HEAD_COLUMNS}


def without(line: str, columns: Collection[int]) -> str:
    """The line without the columns at these places; a line that can't be split stays as it is."""
    try:
        cells = next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except (csv.Error, StopIteration):
        return line
    kept = [cell for index, cell in enumerate(cells) if index not in columns]
    return ",".join(
        f'"{cell.replace(chr(34), chr(34) * 2)}"' if "," in cell or '"' in cell else cell for cell in kept
    )


def _header_names(line: str) -> list[str]:
    return [name.strip(' "').lower() for name in line.lstrip("\ufeff").split(",")]


def is_cancel(trade: Trade) -> bool:
    """Whether this row takes another trade back (OPRA conditions 40 to 44)."""
    return trade.condition in CANCEL_CONDITIONS


def _trade(
    symbol: str, hour: str, minute: int, second: int, millisecond: int, sequence: int, root: str,
    expiration: str,
    strike: float, option_type: str, exchange: int, size: int, price: float, condition: int, canceled: int,
    bid: float, ask: float, iv: float, delta: float, underlying_bid: float, underlying_ask: float,
    exchanges: int,
) -> Trade:  # fmt: skip
    hour_ms, hour_slot = _hour(hour)
    if minute > 59 or second > 59:
        raise _Bad(Reason.TIME, f"no such time of day: {hour}:{minute}:{second}")
    trade_date = hour[:10]
    if _day(expiration) < _day(trade_date):
        raise _Bad(Reason.EXPIRED, f"the option expired on {expiration}, before the trade of {trade_date}")
    if not (
        strike > 0 and size > 0 and price >= 0 and bid >= 0 and ask >= 0 and iv >= 0 and -1 <= delta <= 1
        and underlying_bid >= 0 and underlying_ask >= 0 and exchange >= 0 and condition >= 0 and canceled >= 0
        and size < 2**31 and exchange < 2**15 and condition < 2**15 and canceled < 2**15
    ):  # fmt: skip
        raise _Bad(
            Reason.RANGE,
            "a number is out of its range: size and strike > 0, prices and iv >= 0, |delta| <= 1",
        )
    price += 0.0  # turns -0.0 into 0.0, which is the same price
    ts = hour_ms + minute * 60_000 + second * 1_000 + millisecond
    identity = trade_id(
        symbol,
        ts,
        sequence,
        root,
        expiration,
        strike,
        option_type,
        exchange,
        size,
        price,
        condition,
        canceled,
    )
    return Trade(
        identity, symbol, ts, trade_date, hour_slot + minute // SLOT_MINUTES, sequence, root,
        expiration, strike,
        option_type, exchange, size, price, condition, canceled, bid, ask, iv, delta, underlying_bid,
        underlying_ask,
        exchanges,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _hour(text: str) -> tuple[int, int]:
    """``2018-01-08 11`` of New York's wall clock → (milliseconds UTC at its start, its first slot).

    An hour that daylight saving skips is rejected; of an hour that it repeats, the first is meant (no options
    trade in either).
    """
    try:
        local = datetime.strptime(text, "%Y-%m-%d %H").replace(tzinfo=NEW_YORK)
    except ValueError:
        raise _Bad(Reason.TIME, f"no such date and hour: {text}") from None
    instant = local.astimezone(UTC)
    if instant.astimezone(NEW_YORK).hour != local.hour:
        raise _Bad(Reason.TIME, f"New York's clocks skip the hour {text}")
    return int(instant.timestamp()) * 1000, local.hour * 60 // SLOT_MINUTES


@lru_cache(maxsize=4096)
def _day(text: str) -> int:
    """``YYYY-MM-DD`` → its ordinal."""
    try:
        return date.fromisoformat(text).toordinal()
    except ValueError:
        raise _Bad(Reason.DATE, f"no such date: {text}") from None


def _careful(line: str) -> Trade:
    """Reads quotes, spaces and odd numbers too; raises _Bad with the first thing that is wrong."""
    fields = _fields(line)
    if len(fields) < len(HEAD_COLUMNS):
        raise _Bad(Reason.COLUMNS, f"{len(fields)} columns, but a trade has at least {len(HEAD_COLUMNS)}")
    exchanges = _integer(fields, 18)
    if not 0 <= exchanges <= MAX_EXCHANGES or len(fields) != len(HEAD_COLUMNS) + exchanges * EXCHANGE_COLUMNS:
        raise _Bad(Reason.COLUMNS, _columns_text(exchanges, len(fields)))
    symbol, root = _symbol(fields, 0), _symbol(fields, 3)
    hour, minute, second, millisecond = _time(fields[1])
    expiration = fields[4]
    if not re.fullmatch(_DATE, expiration, re.ASCII):
        raise _Bad(Reason.DATE, f"expiration is {expiration[:40]!r}, not YYYY-MM-DD")
    option_type = fields[6].upper()
    if option_type not in ("C", "P"):
        raise _Bad(Reason.OPTION_TYPE, f"option_type is {fields[6][:40]!r}, not C or P")
    for index in range(len(HEAD_COLUMNS), len(fields)):
        if not _EXCHANGE_CELL(fields[index]):  # the cells of exchanges are counted, not used
            _number(fields, index)
    return _trade(
        symbol, hour, minute, second, millisecond, _integer(fields, 2), root, expiration, _number(fields, 5),
        option_type, _integer(fields, 7), _integer(fields, 8), _number(fields, 9), _integer(fields, 10),
        _integer(fields, 11), _number(fields, 12), _number(fields, 13), _number(fields, 14),
        _number(fields, 15),
        _number(fields, 16), _number(fields, 17), exchanges,
    )  # fmt: skip


def _fields(line: str) -> list[str]:
    if '"' not in line:
        return [field.strip() for field in line.split(",")]
    try:
        return [field.strip() for field in next(csv.reader([line], strict=True))]
    except (csv.Error, StopIteration) as error:
        raise _Bad(Reason.QUOTING, f"the quotes don't match: {error}") from None


def _time(text: str) -> tuple[str, int, int, int]:
    match = _CAREFUL_TIME(text)
    if match is None:
        raise _Bad(Reason.TIME, f"quote_datetime is {text[:40]!r}, not YYYY-MM-DD HH:MM:SS.mmm")
    day, hour, minute, second, fraction = match.groups()
    return f"{day} {hour}", int(minute), int(second or 0), int((fraction or "0").ljust(3, "0"))


def _symbol(fields: list[str], index: int) -> str:
    if not _SYMBOL_ONLY(fields[index]):
        raise _Bad(Reason.SYMBOL, f"{HEAD_COLUMNS[index]} is {fields[index][:40]!r}, which is no symbol")
    return fields[index]


def _number(fields: list[str], index: int) -> float:
    text = fields[index]
    if not _CAREFUL_NUMBER(text):
        raise _Bad(Reason.NUMBER, f"{_column(index)} is {text[:40]!r}, not a number")
    value = float(text)
    if not math.isfinite(value) or abs(value) > 1e18:
        raise _Bad(Reason.RANGE, f"{_column(index)} is {text[:40]!r}, too large")
    return value


def _integer(fields: list[str], index: int) -> int:
    text = fields[index]
    if re.fullmatch(_INT, text, re.ASCII):
        return int(text)
    value = _number(fields, index)
    if not value.is_integer():
        raise _Bad(Reason.NUMBER, f"{_column(index)} is {text[:40]!r}, not a whole number")
    return int(value)


def _column(index: int) -> str:
    return HEAD_COLUMNS[index] if index < len(HEAD_COLUMNS) else f"exchange column {index}"


def _columns_text(exchanges: int, found: int) -> str:
    expected = len(HEAD_COLUMNS) + exchanges * EXCHANGE_COLUMNS
    return f"{found} columns, but {exchanges} exchanges make {expected}"

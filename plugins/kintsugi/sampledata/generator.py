"""Generate sample trades in the vendor's format from a seed: the same arguments write the same bytes.

The volume of a day is U-shaped (heavy open and close, 09:30 to 16:15 New York). A day has bursts of one symbol,
cancels, 1 to 16 exchanges a row, duplicates at file borders, and on request malformed rows. Trades of informed traders
are injected (`injected_behaviour`), and a truth file beside the trades lists them.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kintsugi.core.errors import InputError
from kintsugi.pipeline.row_parser import HEAD_COLUMNS, Rejection, parse_trade
from kintsugi.sampledata.injected_behaviour import (
    MIDPOINT,
    Order,
    Tape,
    baseline_tape,
    draw_intents,
    find_level,
    inject_behaviour,
)
from kintsugi.sampledata.option_chain import (
    UNDERLYINGS,
    Chain,
    Integers,
    build_chain,
    previous_trading_day,
    write_eod,
)

HEADER = ",".join([*HEAD_COLUMNS, "{exchange_id,bid_size,bid,ask_size,ask}[number_of_exchanges]"])
OPEN_MS, CLOSE_MS = 34_200_000, 58_500_000  # 09:30 and 16:15, in milliseconds of the day
LINES = 8  # OPRA's lines: a sequence number is unique within one of them
CANCEL_SHARE = 0.004
BURST_SHARE = 0.05
BORDER_DUPLICATES = 5
BLOCK = 50_000
FIRST_DAY, LAST_DAY = date(1990, 1, 1), date(2095, 12, 31)  # so that all expirations are valid days, too


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """One injected unusual trade, with its identity; ``size`` is in contracts."""

    trade_id: str
    symbol: str
    quote_datetime: str
    expiration: str
    strike: float
    option_type: str
    size: int


@dataclass(frozen=True, slots=True)
class GeneratedDay:
    """The files and counts of a day: ``rows`` = ``trades`` (distinct identities) + ``duplicates`` + ``bad_rows``.

    ``blocks``: injected blocks, which the truth file lists as ``unusual``.
    """

    day: date
    trade_files: list[Path]
    eod_files: list[Path]
    truth_file: Path
    rows: int
    trades: int
    duplicates: int
    bad_rows: int
    blocks: int


class LivePart(NamedTuple):
    """One file of a steady feed: its name and its bytes; ``key``: its key in S3."""

    name: str
    body: bytes

    @property
    def key(self) -> str:
        return f"trades/{self.name.split('_')[1]}/{self.name}"


def generate_day(
    out: Path,
    *,
    day: date,
    seed: int,
    trades: int,
    parts: int = 1,
    bad_rows: int = 0,
    compress: str = "",
    eod_days: int = 1,
    level: str = "standard",
) -> GeneratedDay:
    """Write a trading day below ``out``, in the layout of S3.

    Folders: ``trades/<day>/``, ``eod/``, and ``truth/unusual_<day>.json`` beside them.
    ``trades``: rows that are trades, including cancels, in all ``parts`` files together. Each part after the first
    begins with the last rows of the one before. ``bad_rows``: malformed rows, distributed over the files. ``compress``:
    empty, ``gz`` or ``zip``. ``eod_days``: end-of-day files of that many trading days before ``day``. ``level``: one of
    `injected_behaviour.LEVELS`. Raises InputError for a weekend, an unknown level, and invalid numbers.

    The truth file has ``unusual`` (the blocks), ``shocked`` (identities of trades at a shocked volatility) and
    ``orders`` (behaviour, symbol, first and last time).
    """
    if trades < 1 or seed < 0 or not FIRST_DAY <= day <= LAST_DAY:
        raise InputError(
            f"cannot generate a day of {trades} trades for {day} from seed {seed}: choose at least 1 trade, "
            f"a seed of at least 0, and a day from {FIRST_DAY} to {LAST_DAY}"
        )
    if day.weekday() > 4:
        raise InputError(f"{day} is a {day:%A}, not a trading day; choose a weekday")
    chains = _build_chains(day, seed, eod_days)
    eod_files = [write_eod(chain, out / "eod") for chain in chains]
    market = _Market(chains[0], np.random.default_rng([seed, day.toordinal(), 1]))
    difficulty = find_level(level)
    rng = np.random.default_rng([seed, day.toordinal(), 4])
    intents = draw_intents(difficulty, trades, rng)
    tape = market.tape(market.day_times(trades - sum(intent.slices for intent in intents)))
    tape, orders = inject_behaviour(tape, market.chain, difficulty, intents, rng)
    lines = market.lines(day, tape)
    blocks = [_ground_truth(lines[index]) for index in np.flatnonzero(tape.block)]
    shocked = [_ground_truth(lines[index]).trade_id for index in np.flatnonzero(tape.shocked)]
    files, duplicates = _write_parts(out, day, lines, parts, bad_rows, compress, seed)
    truth = out / "truth" / f"unusual_{day.isoformat()}.json"
    truth.parent.mkdir(parents=True, exist_ok=True)
    truth.write_text(
        json.dumps(
            {
                "day": day.isoformat(), "seed": seed, "level": level,
                "unusual": [asdict(block) for block in blocks], "shocked": shocked,
                "orders": [_order_record(day, order) for order in orders],
            }
        )
    )  # fmt: skip
    rows = len(lines) + duplicates + bad_rows
    return GeneratedDay(day, files, eod_files, truth, rows, len(lines), duplicates, bad_rows, len(blocks))


def live_parts(
    *, day: date, seed: int, rows: int, first: int = 1, seconds: float = 5.0
) -> Iterator[LivePart]:
    """Yield an endless feed: part files of ``rows`` trades, each of ``seconds`` of the session of ``day``.

    Part ``n`` is always the same, so an interrupted feed continues with ``first=n``. Sequence numbers are greater than
    those of `generate_day`, so the feed and the day's file have different trades.
    """
    chain = _build_chains(day, seed, 1)[0]
    number = first
    while True:
        market = _Market(chain, np.random.default_rng([seed, day.toordinal(), 2, number]))
        start = OPEN_MS + (number * int(seconds * 1000)) % (CLOSE_MS - OPEN_MS - int(seconds * 1000))
        times = np.sort(market.rng.integers(start, start + int(seconds * 1000), rows))
        lines = market.lines(day, market.tape(times), sequence_base=1_000_000_000 + number * rows * 2)
        name = f"UnderlyingOptionsTradesCalcs_{day}_live-{seed}-{number:06d}.csv"
        yield LivePart(name, "\n".join([HEADER, *lines, ""]).encode())
        number += 1


def _build_chains(day: date, seed: int, count: int) -> list[Chain]:
    """Return the markets of the trading days before ``day``, the newest first."""
    chains = []
    for _ in range(max(1, count)):
        day = previous_trading_day(day)
        chains.append(build_chain(day, seed))
    return chains


class _Market:
    """Draws trades on the contracts of a chain."""

    def __init__(self, chain: Chain, rng: np.random.Generator) -> None:
        self.chain = chain
        self.rng = rng
        self._tails = self._exchange_pool(512)

    def day_times(self, count: int) -> Integers:
        """Draw ``count`` milliseconds of the day, sorted: a mixture of the open, the close and the middle."""
        span = CLOSE_MS - OPEN_MS
        part = self.rng.random(count)
        early = span * self.rng.beta(0.8, 4.0, count)
        late = span * self.rng.beta(5.0, 0.9, count)
        middle = span * self.rng.random(count)
        offsets = np.where(part < 0.35, early, np.where(part < 0.65, late, middle))
        return np.sort(OPEN_MS + np.minimum(offsets, span - 1).astype(np.int64))

    def tape(self, times: Integers) -> Tape:
        """Draw trades without informed traders at ``times``; bursts change ``times`` in place."""
        contracts = self._contracts(times)
        max_sizes = np.clip(self.chain.volume[contracts] * 0.3, 5, 400)  # quiet contracts trade in small lots
        sizes = np.minimum(np.maximum(1, self.rng.lognormal(0.9, 1.1, len(times))), max_sizes).astype(
            np.int64
        )
        return baseline_tape(times, contracts, sizes)

    def lines(self, day: date, tape: Tape, sequence_base: int = 0) -> list[str]:
        """Return one line for each trade of the tape."""
        lines: list[str] = []
        for start in range(0, len(tape.times), BLOCK):
            lines += self._block(day, tape, slice(start, start + BLOCK), sequence_base + start)
        return lines

    def _contracts(self, times: Integers) -> Integers:
        """Draw a contract for each trade: by volume, except in bursts, in which only one contract trades."""
        weight = self.chain.volume / self.chain.volume.sum()
        contracts = self.rng.choice(len(self.chain), len(times), p=weight)
        bursts = max(1, len(times) // 20_000)
        length = max(1, int(len(times) * BURST_SHARE / bursts))
        for start in self.rng.integers(0, max(1, len(times) - length), bursts):
            contracts[start : start + length] = contracts[start]
            times[start : start + length] = np.sort(times[start] + self.rng.integers(0, 900, length))
        times.sort()
        return contracts

    def _block(self, day: date, tape: Tape, part: slice, base: int) -> list[str]:
        """Return lines of up to BLOCK trades; a few become cancels of the trade before them."""
        times, contracts, sizes = tape.times[part], tape.contracts[part], tape.sizes[part]
        aggressor, injected = tape.aggressor[part], tape.injected[part]
        chain, rng, count = self.chain, self.rng, len(times)
        mid = np.maximum(0.01, chain.mid[contracts] * np.exp(rng.normal(0, 0.01, count)))
        bid = np.maximum(0.0, np.round(mid - chain.spread[contracts] / 2, 2))
        ask = np.round(bid + np.maximum(0.01, chain.spread[contracts]), 2)
        between = rng.choice([0, 0, 0.25, 0.5, 0.75, 1, 1], count)
        for side, where in ((1, 1.0), (-1, 0.0), (MIDPOINT, 0.5)):
            between[aggressor == side] = where
        price = np.round(bid + (ask - bid) * between, 2)
        spot = chain.spot[chain.underlying[contracts]] * np.exp(rng.normal(0, 0.002, count))
        iv = np.where(rng.random(count) < 0.01, 0.0, chain.iv[contracts] * np.exp(rng.normal(0, 0.01, count)))
        iv = iv * tape.iv_factor[part]
        condition = rng.choice([18, 18, 18, 0, 95, 125, 130], count)
        exchange = rng.integers(1, 17, count)
        # No cancel of a cancel. An injected trade stays: neither it nor the trade after it becomes a cancel.
        cancels = (rng.random(count) < CANCEL_SHARE) & ~injected
        cancels[1:] &= ~cancels[:-1] & ~injected[:-1]
        tails = rng.integers(0, len(self._tails), count)
        heads = self._heads()
        clock = _format_times(day, times)
        columns = zip(
            contracts.tolist(), clock, sizes.tolist(), price.tolist(), bid.tolist(), ask.tolist(),
            iv.tolist(),
            chain.delta[contracts].tolist(), spot.tolist(), condition.tolist(), exchange.tolist(),
            tails.tolist(),
            strict=True,
        )  # fmt: skip
        lines = []
        for n, (c, at, size, p, b, a, v, d, s, cond, exch, tail) in enumerate(columns):
            symbol_and_line, contract = heads[c]
            sequence = (base + n) * 3 + 100_000 + symbol_and_line[1]
            text = (
                f"{contract}{exch},{size},{p:.4f}",
                f"{b:.4f},{a:.4f},{v:.4f},{d:.4f},{s - 0.01:.4f},{s + 0.01:.4f},{self._tails[tail]}",
            )
            lines.append(f"{symbol_and_line[0]},{at},{sequence},{text[0]},{cond},0,{text[1]}")
        for index in np.flatnonzero(cancels[1:]) + 1:
            lines[index] = _cancel_line(lines[index - 1], clock[index])
        return lines

    def _heads(self) -> list[tuple[tuple[str, int], str]]:
        """Return, by contract: the symbol and its OPRA line, and the columns from root to option_type."""
        chain = self.chain
        heads = []
        for index in range(len(chain)):
            u = UNDERLYINGS[int(chain.underlying[index])]
            kind = "C" if chain.call[index] else "P"
            contract = f"{u.root},{chain.expiration[index]},{chain.strike[index]:.3f},{kind},"
            heads.append(((u.symbol, int(chain.underlying[index]) % LINES), contract))
        return heads

    def _exchange_pool(self, count: int) -> list[str]:
        """Draw texts for the columns from number_of_exchanges on: 1 to 16 exchanges with their quotes."""
        pool = []
        for _ in range(count):
            number = int(self.rng.integers(1, 17))
            ids = np.sort(self.rng.choice(np.arange(1, 21), number, replace=False)).tolist()
            sizes = self.rng.integers(1, 400, (number, 2)).tolist()
            quotes = np.round(self.rng.uniform(0.05, 20, number), 2).tolist()
            cells = [
                f"{i},{s[0]},{q:.4f},{s[1]},{q + 0.05:.4f}"
                for i, s, q in zip(ids, sizes, quotes, strict=True)
            ]
            pool.append(",".join([str(number), *cells]))
        return pool


def _order_record(day: date, order: Order) -> dict[str, str]:
    start, end = _format_times(day, np.array([order.start, order.end]))
    return {"behaviour": order.behaviour, "symbol": order.symbol, "start": start, "end": end}


def _format_times(day: date, times: Integers) -> list[str]:
    prefix = f"{day.isoformat()} "
    return [
        f"{prefix}{t // 3_600_000:02d}:{t // 60_000 % 60:02d}:{t // 1000 % 60:02d}.{t % 1000:03d}"
        for t in times.tolist()
    ]


def _cancel_line(line: str, at: str) -> str:
    """Return the row that cancels ``line``: the same trade at the time ``at``, with a cancel's condition."""
    fields = line.split(",")
    fields[1] = at
    fields[10], fields[11] = "40", fields[10]
    return ",".join(fields)


def _ground_truth(line: str) -> GroundTruth:
    trade = parse_trade(line)
    if isinstance(trade, Rejection):
        raise InputError(f"the generator made a row that isn't a trade: {trade.text}: {line[:120]}")
    at = line.split(",", 2)[1]
    return GroundTruth(
        trade.trade_id, trade.symbol, at, trade.expiration, trade.strike, trade.option_type, trade.size
    )


def _write_parts(
    out: Path, day: date, lines: list[str], parts: int, bad_rows: int, compress: str, seed: int
) -> tuple[list[Path], int]:
    folder = out / "trades" / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, day.toordinal(), 3])
    borders = np.linspace(0, len(lines), parts + 1).astype(int).tolist()
    bad_at = np.sort(rng.integers(0, max(1, len(lines)), bad_rows)).tolist()
    files, duplicates = [], 0
    for part, (start, end) in enumerate(pairwise(borders), 1):
        repeated = min(BORDER_DUPLICATES, start) if part > 1 else 0
        duplicates += repeated
        rows = [line.encode() for line in lines[start - repeated : end]]
        is_last = part == parts
        for number, index in reversed(
            [(n, i) for n, i in enumerate(bad_at) if start <= i < end or (is_last and i >= end)]
        ):
            rows.insert(index - start + repeated, _malformed_line(lines[index], number))
        suffix = f"_{part:03d}" if parts > 1 else ""
        name = f"UnderlyingOptionsTradesCalcs_{day.isoformat()}{suffix}.csv"
        files.append(_write_file(folder / name, b"\n".join([HEADER.encode(), *rows, b""]), compress))
    return files, duplicates


def _malformed_line(line: str, kind: int) -> bytes:
    """Return a copy of ``line`` with one fault; each number has another kind of fault."""
    fields = line.split(",")
    match kind % 6:
        case 0:
            del fields[5]  # a missing field
        case 1:
            fields[8] = "ten"  # text where a number belongs
        case 2:
            return line.encode().replace(b",", b"\xe9,", 1)  # Latin-1 in a UTF-8 file
        case 3:
            fields[1] = fields[1].replace("-", "/")
        case 4:
            fields[4] = "2001-01-19"  # expired long ago
        case _:
            fields[9] = "-1.0000"
    return ",".join(fields).encode()


def _write_file(path: Path, body: bytes, compress: str) -> Path:
    if compress == "gz":
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(body, 6, mtime=0))
    elif compress == "zip":
        inner, path = path.name, path.with_name(path.name + ".zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(inner, (1980, 1, 1, 0, 0, 0)), body, zipfile.ZIP_DEFLATED)
    elif compress:
        raise InputError(f"compress is {compress!r}; give gz, zip or an empty text")
    else:
        path.write_bytes(body)
    return path

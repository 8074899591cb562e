"""Trades for the measurements: files of trading days that nothing else uses, new ones in every run.

A run has a fortnight of its own, chosen by its seed: no other data shares a partition of Cassandra with it, and
its files lie in S3 like everybody's, so the reconciliation covers them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice

from kintsugi.core.errors import InputError
from kintsugi.pipeline.row_parser import Rejection, Trade, parse_trade
from kintsugi.sampledata.generator import live_parts

FIRST_WEEK = date(2024, 10, 14)
FORTNIGHTS = 50
# Days after the Monday of the run's fortnight. No Mondays: there the generator's chain is Friday's, whose nearest
# options have expired. Latency and spike share a day, but no file; what "ingest" makes is never stored.
DAYS = {
    "end_to_end": 1, "latency": 2, "spike": 2, "growth": 3, "soak": 8, "soak_killed": 9, "rival": 10, "ingest": 4,
}  # fmt: skip
SLOT_S = 900.0

Partition = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Part:
    """One trade file: where it belongs in S3, its bytes, and how many trades it holds."""

    key: str
    body: bytes
    rows: int


def day_of(section: str, seed: int) -> date:
    """The trading day that the run of this seed uses for a section; two seeds share one in fifty."""
    return FIRST_WEEK + timedelta(weeks=2 * (seed % FORTNIGHTS), days=DAYS[section])


def generate_parts(section: str, seed: int, *, rows: int, seconds: float, first: int = 1) -> Iterator[Part]:
    """An endless feed of files of ``rows`` trades, each of ``seconds`` of the session, in order of time.

    The same arguments give the same files, so that an interrupted measurement can tell what it has sent.
    """
    feed = live_parts(day=day_of(section, seed), seed=seed, rows=rows, first=first, seconds=seconds)
    return (Part(made.key, made.body, rows) for made in feed)


def join_parts(key: str, some: Iterator[Part], count: int) -> Part:
    """The next ``count`` parts as one file at ``key``."""
    taken = list(islice(some, count))
    header = taken[0].body.split(b"\n", 1)[0]
    bodies = [part.body.split(b"\n", 1)[1] for part in taken]
    return Part(key, b"\n".join([header, b"".join(bodies)]), sum(part.rows for part in taken))


def parse_trades(part: Part) -> list[Trade]:
    """The trades of a file; raises InputError when the generator made a row that is none."""
    found = [parse_trade(line) for line in part.body.decode().splitlines()[1:]]
    for trade in found:
        if isinstance(trade, Rejection):
            raise InputError(f"{part.key}: the generator made a row that is no trade: {trade.text}")
    return [trade for trade in found if isinstance(trade, Trade)]


def encode_messages(part: Part) -> list[tuple[bytes, bytes]]:
    """(key, value) of each trade as `kintsugi.pipeline.ingest.file_ingest` sends it."""
    import orjson

    return [(trade.symbol.encode(), orjson.dumps(trade)) for trade in parse_trades(part)]


def partition_of(trade: Trade) -> Partition:
    """The partition of the table ``trade`` that holds it."""
    return trade.symbol, trade.trade_date, trade.slot

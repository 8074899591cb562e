"""Our stream against the rival, on the same messages: both drain what waits in Kafka, and the rival only stores it.

1. The stream drains the messages (`benchmarks.throughput.drain`).
2. The rival drains the first of them, once to be warm and then once with each tuning, each into a new table.
3. With its best tuning it drains all of them. Every identity is read back, and its keyspace is dropped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.throughput.ceiling import sweep_loads
from benchmarks.throughput.context import Bench, Result
from benchmarks.throughput.drain import LEAST_RATE, STANDSTILL_S, Drained, measure_drain
from benchmarks.throughput.rival import tuning
from benchmarks.throughput.rival.environment import RivalEnvironment, ensure_environment
from benchmarks.throughput.rival.login import kafka_options, write_configuration
from benchmarks.throughput.rival.process import RivalProcess, run_rival
from benchmarks.throughput.rival.tuning import RivalBatch, RivalTuning, rate_of_batches
from benchmarks.throughput.stored import compare_identities
from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import KEYSPACE, TOPIC
from kintsugi.pipeline.schema import TABLES, TRADE_COLUMNS

if TYPE_CHECKING:
    from cassandra.cluster import Session

RIVAL_KEYSPACE = "bench_rival"
SWEEP_MESSAGES = 100_000
SCHEMA_S = 60.0


def measure_rival(bench: Bench) -> Result:
    """``drain_trades_per_s`` of our stream and ``rival_rows_per_s`` of the best rival, with its sweep.

    Raises StepFailed when a trade isn't in the rival's table afterwards: a rate with failed writes is none.
    """
    bench.print_line("the rival's Spark and connector: fetched, if this is the first time")
    environment = ensure_environment(bench.context.settings)
    drained = measure_drain(bench, bench.rival_messages)
    bench.print_line(f"our stream: {drained.trades_per_s:,.0f} trades/s, counted over {drained.counted:,}")
    with bench.open_session() as session:
        with rival_keyspace(session), _run_configured(bench, session, environment) as rival:
            drains = RivalDrains(bench, session, rival, drained)
            swept = sweep_rival(drains.measure_rate)
            batches, table = drains.drain_messages(swept.best, drained.messages)
            rate = rate_of_batches(batches)
            bench.print_line(f"{swept.best}: {rate:,.0f} rows/s over all messages")
            stored = compare_identities(session, drained.expected, table=table)
        ours = compare_identities(session, drained.expected)
    if stored.lost:
        raise StepFailed(f"{stored.lost} trades are not in the rival's table: its rate says nothing")
    return {
        "drain_trades_per_s": round(drained.trades_per_s), "drained": drained.counted, "messages": drained.messages,
        "rival_rows_per_s": round(rate), "rival_defaults_rows_per_s": round(swept.defaults),
        "best": swept.best.to_json(),
        "sweep": [{**tried.to_json(), "rows_per_s": round(found)} for tried, found in swept.tried.items()],
        "lost": ours.lost, "doubled": ours.doubled,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RivalSweep:
    """Rows a second by tuning, the best tuning, and the rate with the connector's defaults."""

    tried: dict[RivalTuning, float]
    best: RivalTuning
    defaults: float


def sweep_rival(rate_of: Callable[[RivalTuning], float]) -> RivalSweep:
    """Measure the start once to be warm, then each tuning: writes, batches and triggers, each from the best so far."""
    rate_of(tuning.START)
    tried: dict[RivalTuning, float] = {}
    sweep_loads([tuning.CONNECTORS_DEFAULTS], rate_of, tried)
    best = sweep_loads([tuning.START], rate_of, tried)
    for vary in (tuning.vary_writes, tuning.vary_batches, tuning.vary_triggers):
        best = sweep_loads(vary(best), rate_of, tried)
    return RivalSweep(tried, best, tried[tuning.CONNECTORS_DEFAULTS])


class RivalDrains:
    """Drains of the messages that our stream has drained, each by its own query into a table of its own."""

    def __init__(self, bench: Bench, session: Session, rival: RivalProcess, drained: Drained) -> None:
        self._bench, self._session, self._rival, self._drained = bench, session, rival, drained
        self._kafka = kafka_options(bench.context.settings, bench.bootstrap)
        self._count = 0

    def measure_rate(self, tried: RivalTuning) -> float:
        """Rows a second over the first messages; raises StepFailed when the rival can't store them."""
        messages = tried.messages_to_measure(SWEEP_MESSAGES, self._drained.messages)
        batches, table = self.drain_messages(tried, messages)
        rate = rate_of_batches(batches)
        self._session.execute(f"DROP TABLE {table}", timeout=SCHEMA_S)
        self._bench.print_line(f"{tried}: {rate:,.0f} rows/s")
        return rate

    def drain_messages(self, tried: RivalTuning, messages: int) -> tuple[list[RivalBatch], str]:
        """Store at least so many messages; returns the batches, and the table that has their rows."""
        self._count += 1
        name = table_name(self._count)
        drain = {
            "topic": TOPIC, "starting_offsets": self._drained.starting_offsets, "kafka": self._kafka,
            "columns": TRADE_COLUMNS, "keyspace": RIVAL_KEYSPACE, "table": name,
            "options": tried.to_options(), "rows_per_trigger": tried.rows_per_trigger, "messages": messages,
            "seconds": STANDSTILL_S + messages / LEAST_RATE,
            "checkpoint": str(_folder(self._bench) / f"checkpoint-{self._count}"),
        }  # fmt: skip
        return self._rival.drain_topic(drain), f"{RIVAL_KEYSPACE}.{name}"


@contextmanager
def rival_keyspace(session: Session) -> Iterator[None]:
    """A keyspace replicated as the pipeline's; dropped after the block, and one that a killed run left before it.

    It has a table for each drain from the start, because a client learns of a new table only some time later.
    """
    drop = f"DROP KEYSPACE IF EXISTS {RIVAL_KEYSPACE}"
    row = session.execute(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", (KEYSPACE,)
    ).one()
    session.execute(drop, timeout=SCHEMA_S)
    session.execute(
        f"CREATE KEYSPACE {RIVAL_KEYSPACE} WITH replication = {dict(row.replication)}", timeout=SCHEMA_S
    )
    try:
        for number in range(1, tuning.DRAINS + 1):
            session.execute(table_statement(table_name(number)), timeout=SCHEMA_S)
        if not session.cluster.control_connection.wait_for_schema_agreement(wait_time=SCHEMA_S):
            raise StepFailed("the Cassandra nodes don't agree on the schema; see `make status`")
        yield
    finally:
        session.execute(drop, timeout=SCHEMA_S)


def table_name(number: int) -> str:
    """Return the name of the table of a drain; they are counted from 1."""
    return f"trade_{number}"


def table_statement(name: str) -> str:
    """Return the statement that creates the rival's table ``name`` as ``trade`` is created."""
    return TABLES["trade"].replace(f"{KEYSPACE}.trade ", f"{RIVAL_KEYSPACE}.{name} ", 1)


@contextmanager
def _run_configured(bench: Bench, session: Session, environment: RivalEnvironment) -> Iterator[RivalProcess]:
    """Run a rival that can log in; what it logs in with is deleted after the block."""
    folder = _folder(bench)
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    datacenter = session.execute("SELECT data_center FROM system.local").one().data_center
    try:
        write_configuration(
            bench.context.settings, folder, bench.contact_points, datacenter, environment.jars
        )
        with run_rival(environment, folder, bench.folder / "rival.log") as rival:
            yield rival
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder(bench: Bench) -> Path:
    return bench.folder.resolve() / "rival"

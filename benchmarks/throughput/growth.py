"""What a trade costs as rows and partitions double: processor seconds of all nodes, compaction included.

Every level sends its trades at the same pace, so that the micro-batches are alike, into partitions of its own: k times
the rows are in k times the partitions. A level ends when everything is stored, flushed and compacted. What the nodes
use while idle is measured before, and subtracted.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.throughput.context import Bench, Result
from benchmarks.throughput.delivery import deliver_file, open_kafka_python
from benchmarks.throughput.feed import SLOT_S, encode_messages, generate_parts, join_parts
from benchmarks.throughput.figures import fit_growth_slope
from benchmarks.throughput.meters import measure_usage
from kintsugi.core.certificates import Principal
from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import KEYSPACE
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.infra import ssh
from kintsugi.pipeline.cassandra_session import session_scope

if TYPE_CHECKING:
    from kafka import KafkaProducer

LEVELS = (1, 2, 1, 4, 2, 1, 8)  # the small ones again, between the large: their differences are the spread
ROWS = 9_000
PART_ROWS = 1_500
RATE = 2_000.0
IDLE_S = 15.0
STORED_S = 120.0
COMPACTED_S = 60.0
COMPACTIONS = (
    "SELECT active_tasks, pending_tasks FROM system_views.thread_pools WHERE name = 'CompactionExecutor'"
)


def measure_growth(bench: Bench) -> Result:
    """``growth``: for each level rows, partitions' factor, trades_per_s, cpu_s_per_trade; and the slope."""
    idle = measure_idle_cpu(bench)
    bench.print_line(f"idle, all nodes use {idle:.2f} cores")
    ledger = IngestLedger(store_dsn(bench.context.settings))
    points: list[dict[str, Any]] = []
    first = 0
    with open_kafka_python(bench.bootstrap) as kafka:
        for number, level in enumerate(LEVELS):
            points.append(_measure_level(bench, ledger, kafka, number, level, first, idle))
            first += level * ROWS // PART_ROWS
            bench.print_line(
                f"{level}x: {points[-1]['rows']:,} rows, {points[-1]['cpu_s_per_trade'] * 1e6:.0f} µs a trade"
            )
    slope = fit_growth_slope([(p["level"], p["cpu_s_per_trade"]) for p in points])
    return {"growth": points, "slope": slope.to_json(), "idle_cores": round(idle, 3), "rate": RATE}


def measure_idle_cpu(bench: Bench, seconds: float = IDLE_S) -> float:
    """Processor seconds a second of all nodes while nothing is sent."""
    before, began = measure_usage(bench.context.settings), time.monotonic()
    time.sleep(seconds)
    used = measure_usage(bench.context.settings).fleet_cpu_since(before)
    return used / (time.monotonic() - began)


def _measure_level(
    bench: Bench, ledger: Any, kafka: KafkaProducer, number: int, level: int, first: int, idle: float
) -> dict[str, Any]:
    rows, count = level * ROWS, level * ROWS // PART_ROWS
    # A level's trades fill whole quarters of an hour: as many as it is times the rows.
    seconds = SLOT_S * PART_ROWS / ROWS
    feed = generate_parts("growth", bench.seed, rows=PART_ROWS, seconds=seconds, first=first)
    part = join_parts(f"trades/growth/UnderlyingOptionsTradesCalcs_{bench.seed}-{number}.csv", feed, count)
    ready = encode_messages(part)
    with bench.stream_meter() as meter:
        start, before, began = meter.last, measure_usage(bench.context.settings), time.monotonic()
        deliver_file(bench.context.s3(S3Purpose.DELIVERY), ledger, kafka, part, ready, rate=RATE)
        meter.wait_for(
            lambda now: now.stored - start.stored >= rows, STORED_S, f"{rows:,} trades to be stored"
        )
        stored_s = time.monotonic() - began
    flush_and_compact(bench)
    seconds = time.monotonic() - began
    used = measure_usage(bench.context.settings)
    gross = used.fleet_cpu_since(before)
    return {
        "level": level, "rows": rows, "partitions": level, "trades_per_s": round(rows / stored_s),
        "cpu_s_per_trade": float(f"{(gross - idle * seconds) / rows:.4g}"),
        "cpu_s_per_trade_gross": float(f"{gross / rows:.4g}"),
        "by_role_us": {name: round(s / rows * 1e6, 1) for name, s in used.cpu_since(before).items()},
        "seconds": round(seconds, 1),
    }  # fmt: skip


def flush_and_compact(bench: Bench) -> None:
    """Flush the memtables of every Cassandra node, and wait until no compaction runs or waits."""
    settings = bench.context.settings

    def flush_node(node: Node) -> None:
        tool = settings.node_root(node.name) / "bin" / "nodetool"
        answer = ssh.run_over_ssh(settings, node, [str(tool), "flush", KEYSPACE], timeout=60)
        if answer.returncode:
            raise StepFailed(f"{node.name}: nodetool flush failed: {answer.stderr.strip()[-300:]}")

    nodes = bench.context.fleet.of(Role.CASSANDRA)
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(flush_node, nodes))
    deadline = time.monotonic() + COMPACTED_S
    while is_compacting(bench):
        if time.monotonic() > deadline:
            raise StepFailed(f"Cassandra still compacts after {COMPACTED_S:.0f} s")
        time.sleep(0.5)


def is_compacting(bench: Bench) -> bool:
    """Whether a compaction runs or waits on a node, or a node doesn't say."""
    from cassandra.cluster import NoHostAvailable

    for address in bench.contact_points:
        try:
            with session_scope([address], Principal.RECOVERY, keyspace=None) as session:
                host = next(h for h in session.cluster.metadata.all_hosts() if h.address == address)
                row = session.execute(COMPACTIONS, host=host).one()
        except NoHostAvailable:  # busy: it is asked again
            return True
        if row.active_tasks + row.pending_tasks:
            return True
    return False

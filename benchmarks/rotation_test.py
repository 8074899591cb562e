"""``make rotation-test``: renew every secret that `rotate_secrets` renews while 1,000 trades a second come in.

First BASELINE_S seconds of the same load without a rotation are measured, so that what the rotation adds can be seen.
Then the DAG `rotate_secrets` runs to its end. A gap is the time from one stored batch to the next, by the log of the
streaming driver. The stream's offsets are reported beside it, but they can't be read while the broker restarts that
holds them. At the end every trade is reconciled.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.demo import live_feed
from benchmarks.harness import await_steady_state, describe_machine, make_console, write_report
from benchmarks.throughput.meters import StreamMeter, StreamReading
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report

DAG_ID = "rotate_secrets"
ROLLED_OUT_BY = "deploy_release"
ROWS = 1000
PERIOD_S = 1.0
SETTLE_S = 30.0  # the first files wait until the ingest's next run begins
BASELINE_S = 120.0
ROTATION_LIMIT_S = 2400.0
LONGEST_GAP_S = 5.0
RECONCILE_DEADLINE_S = 600.0
# In the collected log the collector's time comes first; in the node's own log, the driver's.
_STORED = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*) .*INFO stream_trades: batch \d+: (\d+) trades,")


def measure_gaps_s(readings: Sequence[StreamReading]) -> list[float]:
    """Return the seconds from each reading in which more was stored to the next such reading, the longest first.

    Time without a reading counts as part of a gap. The time after the last increase is a gap too.
    """
    if not readings:
        return []
    grown = [readings[0].at]
    grown += [after.at for before, after in pairwise(readings) if after.stored > before.stored]
    if readings[-1].at > grown[-1]:
        grown.append(readings[-1].at)
    return sorted((after - before for before, after in pairwise(grown)), reverse=True)


def describe_gaps(readings: Sequence[StreamReading]) -> dict[str, Any]:
    """Return the part of the report about gaps: seconds, trades a second, the five longest gaps in seconds."""
    seconds = readings[-1].at - readings[0].at
    gaps = measure_gaps_s(readings)
    return {
        "seconds": round(seconds, 1),
        "stored_per_s": round((readings[-1].stored - readings[0].stored) / seconds, 1),
        "longest_gaps_s": [round(gap, 2) for gap in gaps[:5]],
        "gaps_over_limit": sum(gap > LONGEST_GAP_S for gap in gaps),
        "most_lag": max(reading.lag for reading in readings),
    }


def read_batches(lines: Iterable[str], begin: float, end: float) -> list[StreamReading]:
    """Return a reading for each batch that the driver logged from ``begin`` to ``end`` (seconds since 1970).

    A time without a zone is in the local one, as the driver writes it.
    """
    readings, stored = [], 0
    for line in lines:
        found = _STORED.match(line)
        if found and begin <= (at := datetime.fromisoformat(found[1]).timestamp()) <= end:
            stored += int(found[2])
            readings.append(StreamReading(at, produced=stored, stored=stored))
    return readings


def describe_batches(settings: Settings, readings: Sequence[StreamReading]) -> dict[str, Any]:
    """Return `describe_gaps` of the batches that were stored in the time of ``readings``, by the driver's log."""
    (master,) = settings.fleet.of(Role.SPARK_MASTER)
    log = settings.control / "node-logs" / master.name / "stream-trades.log"
    lines = [line for path in (log.with_name(f"{log.name}.1"), log) if path.exists() for line in path.open()]
    found = describe_gaps(read_batches(lines, readings[0].at, readings[-1].at))
    del found["most_lag"]
    return found


def run_rotation_test(settings: Settings, *, report: Path | None = None) -> int:
    """Measure, rotate, reconcile; 0 if no gap was longer than LONGEST_GAP_S and nothing is lost or doubled.

    Raises StepFailed when the rotation fails or is not finished in time; the load then ends, too.
    """
    console = make_console()
    path = report or settings.repository / "build" / "rotation-test.json"
    context = Context.from_environment()
    unpause_dags(context)
    airflow = ControlPlane(settings).airflow
    for dag_id in (DAG_ID, ROLLED_OUT_BY):
        airflow.unpause(dag_id)
    await_steady_state(context)
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "rate": ROWS / PERIOD_S,
        "limit_s": LONGEST_GAP_S,
    }
    bootstrap = context.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    with live_feed(context, rows=ROWS, period_s=PERIOD_S), StreamMeter(bootstrap) as meter:
        console.print(f"{ROWS / PERIOD_S:.0f} trades a second; {BASELINE_S:.0f} s without a rotation first")
        time.sleep(SETTLE_S)
        first = len(meter.readings)
        time.sleep(BASELINE_S)
        begun = len(meter.readings)
        document["without_by_offsets"] = describe_gaps(meter.readings[first:begun])
        document["without"] = describe_batches(settings, meter.readings[first:begun])
        write_report(path, document)
        console.print(f"without a rotation: {_format_gaps(document['without'])}")
        run_id = airflow.trigger(DAG_ID)
        console.print(f"rotating: {DAG_ID} {run_id}; each node of Kafka and Cassandra is restarted once")
        state = airflow.await_run(DAG_ID, run_id, ROTATION_LIMIT_S)
        time.sleep(SETTLE_S)  # clients connect with the new secrets only
        document |= {
            "state": str(state),
            "during": describe_batches(settings, meter.readings[begun:]),
            "during_by_offsets": describe_gaps(meter.readings[begun:]),
        }
        write_report(path, document)
        console.print(f"during the rotation: {_format_gaps(document['during'])}")
    document["account"] = counted = summarize_report(
        reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S)
    )
    write_report(path, document)
    console.print(f"{format_summary(counted)}; see {path}")
    if document["state"] != "success":
        raise StepFailed(f"the rotation ended as {state}; look at the run {run_id} of {DAG_ID} in Airflow")
    return 1 if document["during"]["gaps_over_limit"] or has_faults(counted) else 0


def _format_gaps(found: dict[str, Any]) -> str:
    longest = ", ".join(str(gap) for gap in found["longest_gaps_s"])
    return f"{found['seconds']} s, {found['stored_per_s']} trades a second stored; longest gaps: {longest} s"

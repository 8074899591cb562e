"""What a section of the bench works with, and what the sections share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.bench.meters import StreamMeter
from kintsugi.errors import Refused, StepFailed
from kintsugi.fleet import Role
from kintsugi.recovery.case import Runtime
from kintsugi.settings import KAFKA_PORT

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from rich.console import Console

FLOW_DAGS = ("stream_trades", "ingest_trades", "build_baseline", "watch_flow")


@dataclass(frozen=True, slots=True)
class Bench:
    """The running installation under measurement.

    ``seed`` chooses this run's data, ``seconds`` how long the sustained measurement lasts, ``folder`` is for
    files between processes.
    """

    doors: Runtime
    console: Console
    seed: int
    seconds: float
    folder: Path

    @property
    def bootstrap(self) -> list[str]:
        return self.doors.fleet.endpoints(Role.KAFKA, KAFKA_PORT)

    @property
    def contact_points(self) -> list[str]:
        return [node.address for node in self.doors.fleet.of(Role.CASSANDRA)]

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(f"  {text}")

    @contextmanager
    def cassandra(self) -> Iterator[Session]:
        """A session at LOCAL_QUORUM, closed at the end of the block."""
        from kintsugi.trades.cassandra import connected

        with connected(self.contact_points) as session:
            yield session

    def stream_meter(self) -> StreamMeter:
        """A running reading of the stream's offsets, for a ``with`` block."""
        return StreamMeter(self.bootstrap)


def start_dags(bench: Bench) -> None:
    """Airflow and every watch at work: what is measured is the pipeline as it lives."""
    from kintsugi.local.control_plane import ControlPlane

    airflow = ControlPlane(bench.doors.settings).airflow
    for dag_id in (*FLOW_DAGS, *(f"watch_{name}" for name in bench.doors.fleet.nodes)):
        airflow.unpause(dag_id)


def await_quiet(bench: Bench, deadline_s: float = 90.0) -> None:
    """Wait until the nodes are well and nothing is under way; raises StepFailed with what isn't quiet."""
    from kintsugi.chaos.experiment import check_steady_state
    from kintsugi.trades.flow import snapshot

    until = time.monotonic() + deadline_s
    while True:
        now = snapshot(bench.doors.settings)
        why = f"lag {now.lag}, {now.pending} files to ingest"
        if now.lag == 0 and not now.pending:
            try:
                check_steady_state(bench.doors)
            except Refused as refusal:
                why = str(refusal)
            else:
                return
        if time.monotonic() > until:
            raise StepFailed(
                f"the pipeline is not at rest after {deadline_s:.0f} s: {why}; see `make status`"
            )
        time.sleep(1)


def rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


Result = dict[str, Any]

"""What the sections of the bench share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.throughput.meters import StreamMeter
from kintsugi.core.certificates import Principal
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.operations.context import Context
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.stream_lag import read_snapshot
from kintsugi.probes.protocols import silent_nodes

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from rich.console import Console

RIVAL_MESSAGES = 600_000


@dataclass(frozen=True, slots=True)
class Bench:
    """The running installation that is measured.

    ``seed`` chooses this run's data, ``seconds`` how long the sustained measurement lasts, ``folder`` is for files
    between processes. ``rival_messages``: how many messages our stream and its rival drain.
    """

    context: Context
    console: Console
    seed: int
    seconds: float
    folder: Path
    rival_messages: int = RIVAL_MESSAGES

    @property
    def bootstrap(self) -> list[str]:
        return self.context.fleet.endpoints(Role.KAFKA, KAFKA_PORT)

    @property
    def contact_points(self) -> list[str]:
        return [node.address for node in self.context.fleet.of(Role.CASSANDRA)]

    def print_line(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(f"  {text}")

    @contextmanager
    def open_session(self) -> Iterator[Session]:
        """A session at LOCAL_QUORUM, closed at the end of the block."""
        with session_scope(self.contact_points, Principal.RECOVERY) as session:
            yield session

    def stream_meter(self) -> StreamMeter:
        """A running reading of the stream's offsets, for a ``with`` block."""
        return StreamMeter(self.bootstrap)


def await_quiet(bench: Bench, deadline_s: float = 90.0) -> None:
    """Wait until every node answers and no recovery makes progress; raises StepFailed with what prevents it.

    An open incident is allowed: it may wait for a person for hours.
    """
    until = time.monotonic() + deadline_s
    while True:
        now = read_snapshot(bench.context.settings)
        silent = asyncio.run(silent_nodes(bench.context.fleet))
        if now.lag == 0 and not now.pending and not silent:
            return
        if time.monotonic() > until:
            raise StepFailed(
                f"the pipeline is not at rest after {deadline_s:.0f} s: lag {now.lag}, {now.pending} files to ingest, "
                f"silent nodes: {', '.join(silent) or 'none'}; see `make status`"
            )
        time.sleep(1)


Result = dict[str, Any]

"""Meters: the progress of the stream, and what the pipeline's processes use."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kintsugi.core.errors import StepFailed
from kintsugi.core.processes import owned_pids
from kintsugi.core.settings import TOPIC, Settings
from kintsugi.environments.local.node_process import member_pids
from kintsugi.pipeline.consumer_offsets import group_consumer, topic_partitions

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CONTROL = "control plane"


@dataclass(frozen=True, slots=True)
class StreamReading:
    """The stream at one moment (``at``: seconds since 1970), in messages.

    ``produced``, ``stored``: sums over the topic's partitions of its end offsets and of the group's offsets.
    """

    at: float
    produced: int
    stored: int

    @property
    def lag(self) -> int:
        return max(0, self.produced - self.stored)


class StreamMeter:
    """Reads the stream's offsets every ``every_s`` seconds in a thread of its own, as long as the block runs."""

    def __init__(self, bootstrap: list[str], every_s: float = 0.5) -> None:
        self._bootstrap, self._every_s = bootstrap, every_s
        self.readings: list[StreamReading] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream meter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait_for(lambda _: True, 30, "a first reading of the stream's offsets")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    @property
    def last(self) -> StreamReading:
        return self.readings[-1]

    def wait_for(
        self, condition: Callable[[StreamReading], bool], seconds: float, what: str, *, fresh: bool = False
    ) -> StreamReading:
        """The first reading that fulfils ``condition``, of those yet to come if ``fresh``.

        Raises StepFailed, naming ``what`` was waited for, when none does within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        seen = len(self.readings) if fresh else max(0, len(self.readings) - 1)
        while time.monotonic() < deadline:
            while seen < len(self.readings):
                if condition(self.readings[seen]):
                    return self.readings[seen]
                seen += 1
            time.sleep(self._every_s / 5)
        now = f"stored {self.last.stored}, lag {self.last.lag}" if self.readings else "Kafka doesn't tell"
        raise StepFailed(f"waited {seconds:.0f} s in vain for {what} ({now}); see `make status`")

    def _run(self) -> None:
        from kafka.errors import KafkaError

        consumer: Any = None
        while not self._stop.wait(self._every_s if self.readings else 0):
            try:
                consumer = consumer or group_consumer(self._bootstrap)
                places = topic_partitions(consumer, TOPIC)
                ends = consumer.end_offsets(places)
                stored = sum(consumer.committed(place) or 0 for place in places)
            except KafkaError:  # a broker that is away for a moment leaves a gap in the readings, no more
                continue
            self.readings.append(StreamReading(time.time(), sum(ends.values()), stored))
        if consumer is not None:
            consumer.close()


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One live process: whose it is, a role of the fleet or the control plane.

    Processor time in seconds since it began, resident memory in MiB.
    """

    owner: str
    cpu_s: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Usage:
    """The pipeline's processes at one moment, by (pid, start in clock ticks): no two ever share that."""

    processes: dict[tuple[int, int], ProcessUsage]

    def cpu_since(self, before: Usage) -> dict[str, float]:
        """Return processor seconds by owner that the current processes have used since an earlier measurement.

        A process that began and ended in between is not counted (except under the control plane, whose tasks are
        counted when their parent reaps them).
        """
        used: dict[str, float] = defaultdict(float)
        for key, process in self.processes.items():
            known = before.processes.get(key)
            used[process.owner] += process.cpu_s - (known.cpu_s if known else 0.0)
        return dict(used)

    def fleet_cpu_since(self, before: Usage) -> float:
        """The same for all nodes together, without the control plane."""
        return sum(seconds for owner, seconds in self.cpu_since(before).items() if owner != CONTROL)

    def rss_mib(self) -> dict[str, float]:
        """Resident memory by owner."""
        memory: dict[str, float] = defaultdict(float)
        for process in self.processes.values():
            memory[process.owner] += process.rss_mib
        return dict(memory)


def measure_usage(settings: Settings) -> Usage:
    """What every node of the local fleet and the control plane use now."""
    found: dict[tuple[int, int], ProcessUsage] = {}
    for node in settings.fleet:
        for pid in member_pids(settings, node.name):
            _add_process(found, pid, str(node.role), with_buried=False)
    for pid in owned_pids(settings.control):
        _add_process(found, pid, CONTROL, with_buried=True)
    return Usage(found)


def _add_process(
    found: dict[tuple[int, int], ProcessUsage], pid: int, owner: str, *, with_buried: bool
) -> None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # ended a moment ago
        return
    began, seconds, mib = parse_stat(text, with_buried=with_buried)
    found[pid, began] = ProcessUsage(owner, seconds, mib)


def parse_stat(text: str, *, with_buried: bool) -> tuple[int, float, float]:
    """(start in ticks, processor seconds, resident MiB) from the text of ``/proc/<pid>/stat``, see proc(5).

    ``with_buried``: with the time of children that have ended and been waited for.
    """
    fields = text.rpartition(")")[2].split()
    ticks = sum(int(fields[number]) for number in ((11, 12, 13, 14) if with_buried else (11, 12)))
    return int(fields[19]), ticks / TICKS, int(fields[21]) * PAGE / 2**20

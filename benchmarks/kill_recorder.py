"""The recorder of live kills: a separate process that observes every node from outside and evaluates nothing.

Every LOOK_S it notes whether each node's init and service are still the same processes. It also asks every node in
its own protocol and, if a node does not answer, its peers. It writes a line of JSON for each death, with the last
answer before it, and a line each second as proof that it observed. It shares only the probes with the recovery. It has
real-time priority if possible, because it must observe also while the machine lacks processor time.

    python -m benchmarks.kill_recorder <file>      until its standard input is closed
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

from benchmarks.live_kills import Death, Recording, find_service_end
from kintsugi.chaos.service_processes import ProcessIdentity, init_process, service_process
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import REPOSITORY, Node
from kintsugi.core.observation import PeerOpinion, ProbeResult
from kintsugi.core.settings import Settings, load_settings
from kintsugi.environments import node_files
from kintsugi.environments.local.node import INIT_LOG
from kintsugi.probes.observe import SERVICES
from kintsugi.probes.peers import ask_peers
from kintsugi.probes.protocols import probe_node

LOOK_S = 0.2
ASK_S = 0.5
PROOF_S = 1.0
INIT_WRITES_S = 1.5  # so long the init's log gets to say how a service ended
PEERS_WATCH_S = 1.5
MOST_BLIND_S = 5.0
START_DEADLINE_S = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class _Seen:
    """The state of one node."""

    node: Node
    heard_at: datetime | None = None
    heard_by: str = "nobody"
    processes: dict[str, ProcessIdentity] = field(default_factory=dict)
    log_size: int = 0


class Recorder:
    """Observes the nodes of one installation and writes to ``out``."""

    def __init__(self, settings: Settings, out: TextIO) -> None:
        self.settings = settings
        self.out = out
        self.seen = {node.name: _Seen(node) for node in settings.fleet}
        # To convert clock ticks since boot; both clocks are read at one moment.
        self.booted_at = datetime.now(UTC) - timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME))
        self._proof_s = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, ended: asyncio.Event) -> None:
        """Observe until ``ended`` is set."""
        asking = [asyncio.create_task(self._watch_node(seen)) for seen in self.seen.values()]
        try:
            while not ended.is_set():
                self.observe_processes()
                await asyncio.sleep(LOOK_S)
            await asyncio.gather(*self._tasks)
        finally:
            for task in asking:
                task.cancel()

    def observe_processes(self) -> None:
        """Compare every node's processes with those of the last observation."""
        for seen in self.seen.values():
            now = {
                "init": init_process(self.settings, seen.node.name),
                "service": service_process(self.settings, seen.node),
            }
            for what, process in now.items():
                before = seen.processes.get(what)
                if before is not None and before != process and not before.alive:
                    self._start_record(seen, what, before, seen.log_size)
                if process is not None:
                    seen.processes[what] = process
                elif before is not None and not before.alive:
                    del seen.processes[what]
            seen.log_size = self._log_size(seen.node.name)
        if time.monotonic() - self._proof_s >= PROOF_S:
            self._write_line({"kind": "look", "at": datetime.now(UTC).isoformat()})
            self._proof_s = time.monotonic()

    def _start_record(self, seen: _Seen, what: str, process: ProcessIdentity, log_size: int) -> None:
        death = Death(
            node=seen.node.name,
            what=what,
            pid=process.pid,
            started_at=self.booted_at + timedelta(seconds=process.started / _TICKS),
            at=datetime.now(UTC),
            heard_at=seen.heard_at,
            heard_by=seen.heard_by,
            end="its node ended" if what == "init" else "unknown",
        )
        task = asyncio.create_task(self._write_death(seen, death, log_size))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_death(self, seen: _Seen, death: Death, log_size: int) -> None:
        """Write a death after the init's log, ``log_size`` bytes long before it, had time to record its cause."""
        end = death.end
        if death.what == "service":
            await asyncio.sleep(INIT_WRITES_S)
            end = find_service_end(self._read_init_log(seen.node.name, log_size), SERVICES[seen.node.role])
        self._write_line({**death.to_json(), "end": end})

    def _log_size(self, name: str) -> int:
        try:
            return node_files.file_size(self.settings.node_root(name), INIT_LOG)
        except (OSError, node_files.NodeFileRefused):
            return 0

    def _read_init_log(self, name: str, offset: int) -> str:
        """Return what the init has logged after byte ``offset`` of its log; empty when it can't be read."""
        begin = offset if offset <= self._log_size(name) else 0
        with suppress(OSError, node_files.NodeFileRefused):
            return node_files.read_from(self.settings.node_root(name), INIT_LOG, begin).decode(
                errors="replace"
            )
        return ""

    async def _watch_node(self, seen: _Seen) -> None:
        """Ask the node repeatedly, and its peers while it doesn't answer."""
        while True:
            probe = await probe_node(seen.node)
            if probe.answer is ProbeResult.OK:
                seen.heard_at, seen.heard_by = probe.at + timedelta(seconds=probe.latency_s), "the recorder"
            else:
                await self._ask_peers(seen)
            await asyncio.sleep(ASK_S)

    async def _ask_peers(self, seen: _Seen) -> None:
        for witness in await ask_peers(self.settings.fleet, seen.node, PEERS_WATCH_S):
            at = witness.last_seen_at
            if (
                witness.opinion is PeerOpinion.UP
                and at is not None
                and (seen.heard_at is None or at > seen.heard_at)
            ):
                seen.heard_at, seen.heard_by = at, witness.peer

    def _write_line(self, line: dict[str, Any]) -> None:
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()


def explain_unavailable(settings: Settings) -> str | None:
    """Return why nothing can be recorded here; None when it can."""
    environment = settings.fleet.environment
    return (
        None
        if environment == "local"
        else f"processes of the environment {environment} aren't seen from here"
    )


@dataclass(frozen=True, slots=True)
class RunningRecorder:
    """A recorder process; ``path`` is the file that it writes."""

    path: Path
    process: subprocess.Popen[bytes]

    def read_period(self, since: datetime, until: datetime) -> Recording:
        """Return what was recorded in that time (UTC); waits a moment for the last lines.

        Raises StepFailed when the recorder has ended: the time after that is unknown.
        """
        if self.process.poll() is not None:
            raise StepFailed(
                f"the recorder of live kills ended with {self.process.returncode}; see {self.path}"
            )
        deadline = time.monotonic() + MOST_BLIND_S + INIT_WRITES_S
        while True:
            lines = self._read_lines()
            last = max((line["at"] for line in lines if line["kind"] == "look"), default="")
            seen_all = last and datetime.fromisoformat(last) > until + timedelta(seconds=2 * INIT_WRITES_S)
            if seen_all or time.monotonic() > deadline:
                return Recording.from_lines(lines, since, until)
            time.sleep(0.2)

    def _read_lines(self) -> list[dict[str, Any]]:
        whole = self.path.read_text().rpartition("\n")[0]  # the last line may be half written
        return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def run_recorder(path: Path, settings: Settings) -> Iterator[RunningRecorder | None]:
    """Run a recorder that writes to ``path`` while the block runs; yields None where nothing can be recorded.

    Raises StepFailed when it doesn't start to observe.
    """
    if explain_unavailable(settings) is not None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.kill_recorder", str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(REPOSITORY / "plugins"), str(REPOSITORY)))},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while not path.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise StepFailed(f"the recorder of live kills doesn't begin to look; see {path}")
            time.sleep(0.1)
        yield RunningRecorder(path, process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _take_priority() -> None:
    """Get real-time priority: with a normal share of the processors it could not observe a starved machine."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


async def _record_until_closed(settings: Settings, path: Path) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end_if_closed() -> None:
        if not os.read(sys.stdin.fileno(), 1000):
            ended.set()

    loop.add_reader(sys.stdin.fileno(), end_if_closed)
    with path.open("a") as out:
        await Recorder(settings, out).run(ended)


def main(arguments: list[str]) -> int:
    """Record until the standard input is closed, which happens however the parent process ends."""
    _take_priority()
    asyncio.run(_record_until_closed(load_settings(), Path(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``make restore-drill``: lose the whole control plane while the fleet streams, restore it, and let it recover a node.

1. 300 trades a second go through S3. Every process of the nodes is recorded with its start.
2. `make backup`. The backup and its key are copied to a directory beside the state directory, and the copies are tried.
3. Trades go straight into Kafka from here on, because the lost S3 server can't take them (`outage_feed`).
4. Every process of the control plane is killed, and everything of it is taken from the state directory: databases,
   secrets, the certificate authority, Terraform's state, S3's data, logs (`control_plane_loss`).
5. ``kintsugi restore`` with the copies only. The trade files are put back, as if the bucket were elsewhere.
   ``kintsugi up``.
6. Wait until every node is watched and `make status` says that all is well. No process of a node may have ended, and no
   incident may have been opened.
7. A node is switched off. The new control plane must recover it.
8. What else was in the bucket is put back, and every trade is reconciled.

Killed before step 4, it has changed nothing. Killed later, a person brings the control plane back by `make restore`.
The error, the line that is printed before step 4, and the same command given again say with which arguments.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.allowed_fault import allow_fault
from benchmarks.control_plane_loss import LostMachine, way_back
from benchmarks.demo import DAY, SEED
from benchmarks.drill import Drill
from benchmarks.harness import (
    await_steady_state,
    describe_machine,
    incidents_since,
    make_console,
    pages_since,
    tail_journal,
)
from benchmarks.mttr import await_pace
from benchmarks.node_processes import (
    ProcessorUse,
    ended_processes,
    processor_since,
    read_processes,
    read_processor_use,
    stable_processes,
)
from benchmarks.outage_feed import OutageFeed
from benchmarks.rotation_test import read_batches
from benchmarks.throughput.meters import StreamReading
from kintsugi.chaos import experiment, switch
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.backup_key import KEY_FILE, key_path
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.processes import wait_until
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.core.users import current_actor
from kintsugi.environments.node_files import read_tail
from kintsugi.installation.backup import back_up
from kintsugi.installation.backup_place import place_to_write
from kintsugi.installation.status import find_problems, gather_status
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.operations.manual_mode import is_watched
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report
from kintsugi.sampledata.generator import live_parts

NODE = "kafka-2"
ROWS, PERIOD_S = 300, 1.0
BASELINE_S = 60.0
FLOW_DEADLINE_S = 240.0
WELL_DEADLINE_S = 300.0
HEALED_DEADLINE_S = 600.0
RECONCILE_DEADLINE_S = 600.0
LOG_BYTES = 8 * 2**20  # of the driver's log: hours
_LOG = "log/stream-trades.log"


@dataclass
class RestoreDrill(Drill):
    """One drill: which node is recovered at its end, and the machine that is lost."""

    node: str
    machine: LostMachine

    def describe_way_back(self) -> str:
        """Return the commands that bring the installation back."""
        return self.machine.describe_way_back()

    def note_seconds(self, name: str, since: float, text: str) -> None:
        """Print and report how many seconds after ``since`` (seconds since 1970) something was reached."""
        passed = round(time.time() - since, 1)
        self.note(f"  {passed:6.1f} s  {text}", seconds={**self.document.get("seconds", {}), name: passed})

    def run(self, feed: OutageFeed) -> float:
        """Run steps 1 to 7; returns when the control plane was lost, in seconds since 1970."""
        context = Context.from_environment()
        await_flow(self.settings)
        await_pace(self.settings, round(ROWS / PERIOD_S))
        processes, begun, use = read_processes(self.settings), time.time(), read_processor_use(self.settings)
        time.sleep(BASELINE_S)
        self.note_gap("before", begun, use)
        switch.check_not_stopped(context.store)
        made = back_up(self.settings)
        self.console.print(str(made), markup=False)
        manifest = self.machine.keep_backup(place_to_write(self.settings), key_path(), made.manifest.id)
        processes = stable_processes(processes, read_processes(self.settings))
        self.note(
            f"{len(processes)} processes of the nodes are recorded; the backup and its key are in "
            f"{self.machine.directory}",
            backup={"id": manifest.id, "bytes": manifest.size},
            processes=len(processes),
        )
        feed.send_directly()
        lost, use = time.time(), read_processor_use(self.settings)
        with self.telling_the_way_back():
            self.lose_and_restore(lost)
            feed.return_to_s3()
            self.await_well(lost)
            self.check_fleet(lost, processes)
            self.note_gap("without_control_plane", lost, use)
            self.recover_node(lost)
        return lost

    def lose_and_restore(self, lost: float) -> None:
        """Take the control plane away, and bring it back as an operator does on an empty machine."""
        commands = "; ".join(way_back(self.machine, is_taken=True, is_restored=False))
        self.console.print(f"the control plane is destroyed now. If this is killed: {commands}", markup=False)
        ended = self.machine.destroy()
        self.note_seconds(
            "destroyed", lost, f"{ended} processes killed, nothing of the control plane is left"
        )
        self.run_command(
            "restore", "--directory", str(self.machine.copy), variables={KEY_FILE: str(self.machine.key)}
        )
        self.note_seconds("restored", lost, "restored")
        self.machine.put_deliveries_back()
        self.run_command("up")
        self.note_seconds("up", lost, "`make up` has ended")

    def run_command(self, *words: str, variables: Mapping[str, str] | None = None) -> None:
        """Run a command of `kintsugi` in a process of its own, which knows nothing of before; raises StepFailed."""
        done = subprocess.run(
            [sys.executable, "-m", "kintsugi.cli", *words],
            env={**os.environ, **(variables or {})},
            cwd=self.settings.repository,
            check=False,
        )
        if done.returncode:
            raise StepFailed(f"`kintsugi {words[0]}` ended with {done.returncode}: its reason is above")

    def await_well(self, lost: float) -> None:
        """Wait until every node is watched, then until `make status` says that all is well; raises StepFailed."""
        airflow = ControlPlane(self.settings).airflow
        nodes = list(self.settings.fleet.nodes)
        if not wait_until(
            lambda: all(is_watched(airflow, name) for name in nodes), WELL_DEADLINE_S, pause=0.5
        ):
            missing = ", ".join(name for name in nodes if not is_watched(airflow, name))
            raise StepFailed(
                f"not watched {WELL_DEADLINE_S:.0f} s after `make up`: {missing}; see `make status`"
            )
        self.note_seconds("watched", lost, f"all {len(nodes)} nodes are watched")
        await_well(self.settings)
        self.note_seconds("well", lost, "`make status`: all is well")

    def check_fleet(self, lost: float, processes: Mapping[Any, str]) -> None:
        """Report which processes of the nodes have ended, and which incidents were opened, since the loss."""
        context = Context.from_environment()
        ended = ended_processes(processes, read_processes(self.settings))
        opened = [one.id for one in incidents_since(context, datetime.fromtimestamp(lost, UTC))]
        self.note(
            f"          {len(processes) - len(ended)} of {len(processes)} processes of the nodes run on"
            + "".join(f"\n          ended: {one}" for one in ended)
            + "".join(f"\n          incident: {one}" for one in opened),
            ended_processes=ended,
            incidents_after_restore=opened,
        )

    def recover_node(self, lost: float) -> None:
        """Switch the node off, and wait until the new control plane has recovered it; raises StepFailed."""
        context = Context.from_environment()
        # A restore stops it; nobody had stopped it before.
        switch.resume_chaos(context.store, user=current_actor())
        allowed = allow_fault(context, "power_off", [self.node], run="restore-drill")
        with allowed.inject_fault() as t0, tail_journal(context, t0, self.console):
            self.note_seconds("fault", lost, f"{self.node} is switched off")
            figures = experiment.wait_for_recovery(context, self.node, t0.isoformat(), HEALED_DEADLINE_S)
        seconds = recovery_seconds(figures, t0.timestamp() - lost)
        self.note(
            f"  {seconds['recovered']:6.1f} s  {self.node} serves again; detected {figures['detected_s']} s, "
            f"serving {figures['repaired_s']} s after it was switched off",
            recovery=figures,
            seconds=self.document["seconds"] | seconds,
        )
        self.note_gap("recovery", t0.timestamp())

    def note_gap(self, name: str, begin: float, use: ProcessorUse | None = None) -> None:
        """Report the longest time without a stored batch from ``begin`` until now.

        ``use``: the nodes' use of the processor at ``begin``. A gap may only show that the machine was busy.
        """
        window = describe_window(read_driver_log(self.settings), begin, time.time())
        processor = ""
        if use is not None:
            window["processor"] = by_node = processor_since(use, read_processor_use(self.settings))
            used, waited = (sum(node[key] for node in by_node.values()) for key in ("used_s", "waited_s"))
            processor = f"; the nodes used the processor for {used:.0f} s, and waited {waited:.0f} s for it"
        self.note(
            f"          longest gap between stored batches ({name}): {window['longest_gap_s']} s of "
            f"{window['seconds']} s, from {window['gap_begins_s']} s on; {window['stored']:,} trades stored{processor}",
            batches={**self.document.get("batches", {}), name: window},
        )


def run_restore_drill(settings: Settings, *, node: str = NODE, report: Path | None = None) -> int:
    """Run the drill; 0 if no process of a node ended, no incident was opened, and nothing is lost or doubled.

    Raises FleetError for an unknown node, GuardRefused if the directory of an earlier drill is there, StepFailed if the
    pipeline isn't well before or after the loss, or if the node isn't recovered.
    """
    settings.fleet.node(node)
    LostMachine(settings).require_no_drill()
    path = report or settings.repository / "build" / "restore-drill.json"
    drill = RestoreDrill(settings, make_console(), path, node, LostMachine(settings))
    context = Context.from_environment()
    unpause_dags(context)
    await_steady_state(context)
    await_well(settings)
    drill.note(
        f"{ROWS / PERIOD_S:.0f} trades a second", machine=describe_machine(), rate=ROWS / PERIOD_S, node=node
    )
    parts = live_parts(day=DAY, seed=SEED, rows=ROWS, first=int(time.time()) % 1_000_000, seconds=PERIOD_S)
    bootstrap = context.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    with (
        open_producer(bootstrap) as producer,
        OutageFeed(parts, lambda: context.s3(S3Purpose.DELIVERY), producer, period_s=PERIOD_S) as feed,
    ):
        lost = drill.run(feed)
    with drill.telling_the_way_back():
        objects = drill.machine.put_rest_back()
        counted = summarize_report(reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S))
    drill.machine.remove()
    drill.note(
        f"{format_summary(counted)}; {feed.sent_directly} part files were sent straight into Kafka; see {path}",
        account=counted,
        feed={"in_s3": feed.delivered, "sent_directly": feed.sent_directly, "failures": feed.failures},
        objects_put_back=objects,
        pages=pages_since(Context.from_environment(), datetime.fromtimestamp(lost, UTC)),
    )
    return 1 if has_failed(drill.document) else 0


def has_failed(document: Mapping[str, Any]) -> bool:
    """Whether the drill showed a fault: of the fleet, of the feed or of the trades. Pure."""
    return bool(
        document["ended_processes"]
        or document["incidents_after_restore"]
        or document["feed"]["failures"]
        or has_faults(document["account"])
    )


def recovery_seconds(figures: Mapping[str, Any], fault: float) -> dict[str, float]:
    """Return when the recovery reached what, in seconds after the loss. ``fault``: when the node was switched off.

    ``figures``: those of `experiment.night_figures`, in seconds after the fault. Pure.
    """
    names = {"detected": "detected_s", "recovered": "repaired_s", "consistent": "consistent_s"}
    return {name: round(fault + figures[key], 1) for name, key in names.items() if figures[key] is not None}


def describe_window(lines: Iterable[str], begin: float, end: float) -> dict[str, Any]:
    """Return seconds, stored trades, and the longest gap between stored batches, from ``begin`` to ``end``. Pure.

    Both ends of the time count as batches, so a time without a batch is one gap. They are seconds since 1970.
    ``gap_begins_s``, and the times in ``batches`` (time, trades stored so far): seconds after ``begin``.
    """
    first = StreamReading(begin, produced=0, stored=0)
    batches = [first, *read_batches(lines, begin, end)]
    grown = [after for before, after in pairwise(batches) if after.stored > before.stored]
    moments = [begin, *(batch.at for batch in grown), end]
    longest, gap_begins = max((after - before, before) for before, after in pairwise(moments))
    return {
        "seconds": round(end - begin, 1),
        "stored": batches[-1].stored,
        "longest_gap_s": round(longest, 2),
        "gap_begins_s": round(gap_begins - begin, 1),
        "batches": [[round(batch.at - begin, 1), batch.stored] for batch in grown],
    }


def read_driver_log(settings: Settings) -> list[str]:
    """Return the last lines of the streaming driver's log on its own node: the collected one is lost with the rest."""
    (master,) = settings.fleet.of(Role.SPARK_MASTER)
    try:
        return (
            read_tail(settings.node_root(master.name), _LOG, LOG_BYTES).decode(errors="replace").splitlines()
        )
    except FileNotFoundError:
        return []


def await_flow(settings: Settings, deadline_s: float = FLOW_DEADLINE_S) -> None:
    """Wait until the driver has stored a batch; raises StepFailed at the deadline."""
    begin = time.time()
    if not wait_until(
        lambda: bool(read_batches(read_driver_log(settings), begin, time.time())), deadline_s, pause=1
    ):
        raise StepFailed(f"no trade is stored after {deadline_s:.0f} s; see `make status`")


def await_well(settings: Settings, deadline_s: float = WELL_DEADLINE_S) -> None:
    """Wait until `make status` says that all is well and nothing is unwatched; raises StepFailed with what is not."""
    until = time.monotonic() + deadline_s
    while problems := describe_problems(gather_status(settings)):
        if time.monotonic() > until:
            raise StepFailed(f"not all is well after {deadline_s:.0f} s: {problems}; see `make status`")
        time.sleep(1)


def describe_problems(status: Mapping[str, Any]) -> str:
    """Return what `make status` says is not well, and what is not watched; empty if all is well. Pure."""
    problems = find_problems(dict(status))
    return "; ".join([*problems, *(f"{name} is not watched" for name in status["unwatched"])])

"""``make crash-test``: kill the recovery at every step; the incident must still be finished, exactly once.

For each step of a rebuild and each part of the recovery: a node loses its power. As soon as the journal shows that the
step has begun, the part is killed with SIGKILL. It is started again as usual (by the supervisor; for all parts at once
by ``up``, as after a reboot), and the recovery continues. `benchmarks.crash_test_plan` has the plan and what is
expected.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.allowed_fault import allow_fault, check_switch
from benchmarks.crash_test_plan import Killing, Victim, judge_killing
from benchmarks.demo import live_feed
from benchmarks.harness import (
    await_steady_state,
    describe_machine,
    incidents_since,
    load_report,
    make_console,
    raised_repair_budget,
    report_path,
    tail_journal,
    write_report,
)
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.controlplane.control_plane import AIRFLOW, ControlPlane
from kintsugi.core.certificates import Principal
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident
from kintsugi.core.processes import carries_marker, kill_owned, owned_pids, signal_if, wait_until
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.environments.local.node_process import read_record
from kintsugi.installation.unpause import unpause_dags
from kintsugi.installation.up import start_installation
from kintsugi.operations import readiness
from kintsugi.operations.context import Context
from kintsugi.pipeline import synthetic_trade
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report

if TYPE_CHECKING:
    from rich.console import Console

FEED_ROWS = 500  # every five seconds
STEP_DEADLINE_S = 300.0  # a repair of the replicas of millions of trades takes minutes
HEALED_DEADLINE_S = 600.0  # the same, after everything was started again
STEADY_DEADLINE_S = 240.0
LOOK_EVERY_S = 0.02  # steps of a tenth of a second must be hit too
STREAM_DEADLINE_S = 90.0  # the killed node may be the one that the stream waits for
RECONCILE_DEADLINE_S = 300.0
TASK_TITLE = b"airflow worker -- "


@dataclass
class CrashTest:
    """One crash test, and its report."""

    context: Context
    console: Console
    path: Path
    asked: Sequence[Killing]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def plane(self) -> ControlPlane:
        return ControlPlane(self.context.settings)

    def run_experiment(self, killing: Killing) -> None:
        """Run one experiment, from the steady state to its row; a failed recovery becomes a row.

        Raises GuardRefused if chaos does not allow the fault, and ChaosStopped.
        """
        context = self.context
        await_steady_state(context, STEADY_DEADLINE_S)
        allowed = allow_fault(context, "power_off", [killing.node], run="crash-test")
        others = find_init_pids(context, but=killing.node)
        said, killed, trouble = "", 0, None
        try:
            with allowed.inject_fault() as t0, tail_journal(context, t0, self.console):
                said = await_step(context, killing, t0)
                check_switch(context)  # right before the recovery itself is killed
                killed = self.kill_victim(killing.victim)
                self.console.print(
                    f"  [yellow]{killing.victim.value} killed[/] at {said}: {killed} processes"
                )
                if killing.victim is Victim.EVERYTHING:
                    self.start_everything()
                elif killing.victim is Victim.AIRFLOW:
                    trouble = check_stream(context)
                await_end(context, killing.node, t0)
        except ChaosStopped:
            raise
        except (KintsugiError, OSError) as error:
            trouble = str(error)
        t0 = allowed.t0
        incidents = [] if trouble else incidents_since(context, t0)
        why = trouble or (judge_killing(killing, incidents) if killed else "there was no process to kill")
        if (
            why is None
            and killing.victim is not Victim.EVERYTHING
            and find_init_pids(context, but=killing.node) != others
        ):
            why = "another node than the victim was rebuilt"
        self.rows[killing.name] = {
            "name": killing.name,
            "step": killing.step,
            "victim": killing.victim.value,
            "node": killing.node,
            "killed_at": said,
            "killed": killed,
            "seconds": round((datetime.now(UTC) - t0).total_seconds(), 1),
            "incidents": [one.id for one in incidents],
            "outcome": "as designed" if why is None else why,
            "as_designed": why is None,
        }
        colour = "green" if why is None else "red"
        self.console.print(f"  [{colour}]{self.rows[killing.name]['outcome']}")

    def kill_victim(self, victim: Victim) -> int:
        """SIGKILL that part of the recovery, by process id and proof of ownership; returns how many were hit."""
        control = self.context.settings.control
        if victim is Victim.WORKER:
            return sum(_kill_process(self.context.settings, pid) for pid in task_processes(control))
        if victim is Victim.AIRFLOW:
            parts = [self.plane.status()[name]["pid"] for name in AIRFLOW]
            return sum(
                _kill_process(self.context.settings, pid) for pid in (*parts, *task_processes(control))
            )
        if victim is Victim.EVERYTHING:
            for name in self.context.fleet.nodes:
                self.context.platform().power_off(name)
            return kill_owned(control)
        return int(_kill_process(self.context.settings, self.plane.status()[victim.value]["pid"]))

    def start_everything(self) -> None:
        """Start everything, as a machine does when its power returns."""
        start_installation(self.context.settings, self.console)

    def write_rows(self, counted: dict[str, Any] | None = None) -> None:
        """Write every row so far. ``counted``: all trades, at the end."""
        document = {
            "machine": describe_machine(),
            "asked": [killing.name for killing in self.asked],
            "finished": counted is not None,
            "killings": list(self.rows.values()),
            "account": counted,
        }
        write_report(self.path, document)


def run_crash_test(settings: Settings, *, killings: Sequence[Killing], report: Path | None = None) -> int:
    """Run all of these killings, then the reconciliation; 0 when each went as designed and nothing is lost or doubled.

    Continues a test of the same killings that was killed.
    """
    context, path = (
        Context.from_environment(),
        report or report_path(settings, "crash-test", old_command="walk"),
    )
    test = CrashTest(context, make_console(), path, killings, keep_rows(load_report(path), killings))
    if test.rows:
        test.console.print(f"continues: {len(test.rows)} are in {path} (to start again, delete it)")
    unpause_dags(context)
    with raised_repair_budget(context):
        for number, killing in enumerate(killings, start=1):
            if killing.name in test.rows:
                continue
            test.console.rule(f"[bold]{number}/{len(killings)} {killing.name}", align="left")
            with live_feed(context, rows=FEED_ROWS):
                test.run_experiment(killing)
            test.write_rows()
    counted = summarize_report(reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S))
    test.write_rows(counted)
    wrong = [row for row in test.rows.values() if not row["as_designed"]]
    for row in wrong:
        test.console.print(f"[red]{row['victim']} at {row['step']} ({row['node']}): {row['outcome']}")
    test.console.print(
        f"{len(test.rows) - len(wrong)} of {len(test.rows)} as designed; "
        f"{format_summary(counted)}; see {test.path}"
    )
    return 1 if wrong or has_faults(counted) else 0


def keep_rows(before: Mapping[str, Any], killings: Sequence[Killing]) -> dict[str, dict[str, Any]]:
    """Return the rows, by name, of a report of the same killings that was not finished; else none."""
    if before.get("finished", True) or before["asked"] != [killing.name for killing in killings]:
        return {}
    return {row["name"]: row for row in before["killings"]}


def find_init_pids(context: Context, *, but: str) -> dict[str, int | None]:
    """Return the process id of every other node's init: a rebuilt node has another."""
    records = {name: read_record(context.settings, name) for name in context.fleet.nodes if name != but}
    return {name: record.pid if record else None for name, record in records.items()}


def task_processes(control: Path) -> set[int]:
    """Return the processes that run a task now: the worker that has it, and what it forked for it."""
    return {
        pid
        for pid in owned_pids(control)
        if _read_title(pid).startswith(TASK_TITLE) and _has_a_task(_read_title(pid))
    }


def _read_title(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _has_a_task(title: bytes) -> bool:
    return b"<idle>" not in title


def _kill_process(settings: Settings, pid: int) -> bool:
    return bool(pid) and signal_if(
        pid, signal.SIGKILL, lambda number: carries_marker(number, settings.control)
    )


def await_step(context: Context, killing: Killing, t0: datetime) -> str:
    """Wait until the step has begun in the journal of the node's incident; returns the journal's last line then."""
    until = time.monotonic() + STEP_DEADLINE_S
    while time.monotonic() < until:
        for incident in incidents_since(context, t0):
            if incident.node == killing.node and has_begun(incident, killing.step):
                last = incident.entries[-1]
                return f"{last.step}: {last.message[:100]}"
        time.sleep(LOOK_EVERY_S)
    raise StepFailed(f"the step {killing.step} did not begin within {STEP_DEADLINE_S:.0f} s")


def has_begun(incident: Incident, step: str) -> bool:
    """Whether the journal has the step's first line."""
    return any(entry.step == step for entry in incident.entries)


def await_end(context: Context, node: str, t0: datetime) -> None:
    """Wait until no incident since the fault is open and the node is ready; raises StepFailed, ChaosStopped."""

    def has_ended() -> bool:
        check_switch(context)
        with suppress(KintsugiError):  # Postgres may have been killed too
            incidents = incidents_since(context, t0)
            if not incidents or any(one.closed_at is None for one in incidents):
                return False
            return (
                asyncio.run(readiness.readiness_gap(context.fleet, context.fleet.node(node), stream=True))
                is None
            )
        return False

    if not wait_until(has_ended, HEALED_DEADLINE_S, pause=0.5):
        raise StepFailed(
            f"{node} is not recovered, or its incident not closed, after {HEALED_DEADLINE_S:.0f} s"
        )


def check_stream(context: Context) -> str | None:
    """Return why the stream stalls while Airflow is down; None when a trade sent to Kafka reached Cassandra."""
    try:
        trade = synthetic_trade.send_synthetic_trade_to_kafka(context.fleet.endpoints(Role.KAFKA, KAFKA_PORT))
        nodes = [node.address for node in context.fleet.of(Role.CASSANDRA)]
        synthetic_trade.await_arrival(
            lambda: session_scope(nodes, Principal.RECOVERY),
            trade,
            lambda waited_s: waited_s > STREAM_DEADLINE_S,
        )
    except KintsugiError as error:
        return f"the stream stalled without Airflow: {error}"
    return None

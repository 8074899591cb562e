"""``make mttr``: the mean time to recovery, by role, under load, compared with starts by hand.

1. 1000 trades a second (``--rate``) come in from beginning to end. The data of each node is measured at both.
2. Each role is broken twelve times (`mttr_figures.schedule`), each time in the steady state, with a stream that
   keeps pace. The time to recovery is observed from outside, by asking repeatedly whether the node is ready. The
   journal has the phases.
3. Between the recoveries the same nodes are started by hand after the same faults (`manual_start`).
4. At the end every trade is reconciled.

Each row is written at once. The same command continues a run that was killed. A run of some roles replaces their rows
and keeps the others. Seconds are reported and never fail the run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import manual_start
from benchmarks.allowed_fault import allow_fault, check_switch
from benchmarks.demo import live_feed
from benchmarks.harness import (
    STEADY_DEADLINE_S,
    await_steady_state,
    describe_machine,
    incidents_since,
    load_report,
    make_console,
    raised_repair_budget,
    tail_journal,
    write_report,
)
from benchmarks.mttr_figures import (
    HEALED,
    MODES,
    QUANTILES,
    REPAIRS,
    HandStart,
    Look,
    Repair,
    Row,
    add_hand_starts,
    can_continue,
    plan_steps,
    remaining_steps,
    row_of,
    select_other_roles,
    summarize_rows,
)
from benchmarks.mttr_plot import draw_repairs
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import GuardRefused, InputError, KintsugiError, StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.incident import acted_on_others
from kintsugi.core.settings import Settings
from kintsugi.infra.airflow_client import Airflow
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations import manual_mode, readiness
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report
from kintsugi.pipeline.stream_lag import read_snapshot

if TYPE_CHECKING:
    from rich.console import Console

TRADES_PER_S = 1000
FEED_PERIOD_S = 5.0
STANDSTILL_S = 600.0  # a repair of millions of trades takes longer, and writes an entry every two minutes
PACE_LAG_S = 10  # seconds of the load that may wait in Kafka
UNSEEN_S = 30.0  # a node that is ready for so long after its fault was not broken by it
LOOK_EVERY_S = 0.5
FAULT_LONGEST_S = 3600.0  # a repair with much data; the janitor undoes the fault after that
RECONCILE_DEADLINE_S = 900.0


@dataclass
class Mttr:
    """One run, and its growing report."""

    context: Context
    airflow: Airflow
    console: Console
    path: Path
    rate: int
    report: dict[str, Any] = field(default_factory=dict)

    def run_step(self, step: Repair | HandStart) -> None:
        """Run one recovery or hand start, from the steady state to its row; StepFailed without a steady state."""
        await_steady_state(self.context, STEADY_DEADLINE_S)
        node = self.context.fleet.node(step.node)
        readiness.wait_until_ready(self.context.settings, self.context.fleet, node, STEADY_DEADLINE_S)
        await_pace(self.context.settings, self.rate)
        manual_mode.await_watched(self.airflow, node.name)
        began = datetime.now(UTC)
        said = step.mode if isinstance(step, Repair) else "by hand"
        self.console.rule(f"[bold]{step.node}: {step.fault}, {said} (round {step.round})", align="left")
        if isinstance(step, Repair):
            row = self.measure_repair(step)
            shown = f"detected {row['detect_s']}, ready {row['repair_s']}, consistent {row['consistent_s']} s"
        else:
            row = self.measure_hand_start(step)
            shown = f"ready {row['by_hand_s']} s"
        row["acted_elsewhere"] = others = acted_on_others(incidents_since(self.context, began), [node.name])
        if others and row["outcome"] == HEALED:
            row["outcome"] = f"{', '.join(others)} was acted upon, although nothing was wrong with it"
        self.report["repairs" if isinstance(step, Repair) else "by_hand"].append(row)
        self.write_figures()
        self.console.print(
            f"  [{'green' if row['outcome'] == HEALED else 'red'}]{row['outcome']}[/]; {shown}"
        )

    def measure_repair(self, planned: Repair) -> Row:
        """Inject the fault and watch until the recovery has ended; a failed recovery becomes a row.

        Raises GuardRefused if chaos does not allow the fault, and ChaosStopped.
        """
        context, node, looks = self.context, self.context.fleet.node(planned.node), list[Look]()
        allowed = allow_fault(context, planned.kind, [node.name], run="mttr")
        try:
            with (
                allowed.inject_fault(longest_s=FAULT_LONGEST_S) as t0,
                tail_journal(context, t0, self.console),
            ):
                trouble = self.observe_repair(node, t0, looks)
        except ChaosStopped:
            raise
        except KintsugiError as error:
            trouble = str(error)
        own = [one for one in incidents_since(context, allowed.t0) if one.node == node.name]
        return row_of(planned, allowed.t0, own, looks, trouble)

    def observe_repair(self, node: Node, t0: datetime, looks: list[Look]) -> str | None:
        """Record in ``looks`` when the node was ready, until the recovery is over; returns what went wrong, or None."""
        stream = readiness.stream_should_run(self.context.settings)
        noted, until_s = 0, STANDSTILL_S
        while True:
            check_switch(self.context)
            lacks = asyncio.run(readiness.readiness_gap(self.context.fleet, node, stream))
            passed_s = (datetime.now(UTC) - t0).total_seconds()
            looks.append((passed_s, lacks is None))
            waiting = lacks or self.find_ongoing_work(node, t0)
            seen = any(not well for _, well in looks)
            if waiting is None and (seen or passed_s > UNSEEN_S):
                return None if seen else f"the fault had no effect within {passed_s:.0f} s"
            if (entries := sum(len(one.entries) for one in incidents_since(self.context, t0))) > noted:
                noted, until_s = entries, passed_s + STANDSTILL_S
            if passed_s > until_s:
                return f"no progress for {STANDSTILL_S:.0f} s, and not over after {passed_s:.0f} s: {waiting}"
            time.sleep(LOOK_EVERY_S)

    def find_ongoing_work(self, node: Node, t0: datetime) -> str | None:
        """Return what is still being done about the fault, or None: nothing is open and the node is watched again."""
        still_open = [one.id for one in incidents_since(self.context, t0) if one.closed_at is None]
        if still_open:
            return f"{', '.join(still_open)} is open"
        return (
            None
            if manual_mode.is_watched(self.airflow, node.name)
            else f"{node.name} is not watched again yet"
        )

    def measure_hand_start(self, planned: HandStart) -> Row:
        """Break the same node and start it by hand; a failed start becomes a row. Raises GuardRefused, ChaosStopped."""
        kind = manual_start.KINDS[planned.fault]
        allowed = allow_fault(self.context, kind, [planned.node], run="mttr by hand")
        at = datetime.now(UTC)
        took: dict[str, float | None]
        try:
            took = dict(manual_start.start_manually(self.context, self.airflow, allowed, planned.fault))
            outcome = HEALED
        except ChaosStopped:
            raise
        except KintsugiError as error:
            took, outcome = {"by_hand_s": None}, str(error)
        return {**asdict(planned), "at": at.isoformat(), **took, "outcome": outcome}

    def write_figures(self) -> None:
        """Write every row so far, and the figures from them."""
        report = self.report
        report["repairs"] = add_hand_starts(report["repairs"], report["by_hand"])
        report["summary"] = summarize_rows(report["repairs"], report["by_hand"])
        write_report(run_file(self.path), report)
        write_report(self.path, report["repairs"])


def run_repairs(
    settings: Settings,
    *,
    repairs: int = REPAIRS,
    roles: Collection[Role] = (),
    rate: int = TRADES_PER_S,
    seed: int | None = None,
    report: Path | None = None,
) -> int:
    """Run all recoveries and hand starts, then the reconciliation.

    0 when every node was recovered, no other node was acted upon, and nothing is lost or doubled.

    ``rate``: trades a second. Raises InputError when the existing report was made under another load.
    Raises StepFailed when the fleet doesn't return to its steady state; what was measured until then is written.
    """
    path = report or settings.repository / "build" / "mttr.json"
    roles = tuple(dict.fromkeys(roles)) or tuple(Role)
    context = Context.from_environment()
    airflow = unpause_dags(context)
    mttr = Mttr(context, airflow, make_console(), path, rate)
    manual_mode.end_manual_mode(context, manual_start.HOLDER)
    check_no_maintenance(context)
    began, before = time.monotonic(), measure_data(context)
    mttr.report = begin_report(
        load_report(run_file(path)), before, roles=roles, repairs=repairs, rate=rate, seed=seed
    )
    planned = plan_steps(context.fleet, mttr.report["seed"], repairs=repairs, roles=roles)
    left = remaining_steps(planned, mttr.report)
    mttr.console.print(
        f"seed {mttr.report['seed']}: {len(left)} of {len(planned)} repairs and hand starts to do"
    )
    with (
        raised_repair_budget(context),
        live_feed(context, rows=round(rate * FEED_PERIOD_S), period_s=FEED_PERIOD_S),
    ):
        for step in left:
            mttr.run_step(step)
        after, seconds = measure_data(context), time.monotonic() - began
    if left:  # else this run only does the reconciliation that a killed run did not do
        mttr.report["data"] |= {"at_end": after, "stored_per_s": stored_per_second(before, after, seconds)}
    mttr.report["account"] = counted = summarize_report(
        reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S)
    )
    mttr.report["run"]["finished"] = True
    mttr.write_figures()
    draw_repairs(mttr.report, path.with_suffix(".png"))
    print_figures(mttr.console, mttr.report, path)
    healed = all(row["outcome"] == HEALED for row in mttr.report["repairs"])
    return 0 if healed and not find_wrong_actions(mttr.report) and not has_faults(counted) else 1


def run_file(rows: Path) -> Path:
    """Return the file of the whole run, with hand starts and figures: ``mttr.run.json`` beside ``mttr.json``."""
    return rows.with_suffix(".run.json")


def find_wrong_actions(report: Mapping[str, Any]) -> list[str]:
    """Return the nodes that were acted upon while another one was broken; there must be none."""
    rows = (*report["repairs"], *report["by_hand"])
    return sorted({name for row in rows for name in row.get("acted_elsewhere", ())})


def await_pace(settings: Settings, rate: int) -> None:
    """Wait until the stream keeps pace with ``rate`` trades a second; raises StepFailed after STEADY_DEADLINE_S.

    A stream that still catches up takes every processor. Then recoveries and hand starts could not be compared.
    """
    until = time.monotonic() + STEADY_DEADLINE_S
    while (lag := read_snapshot(settings).lag) is None or lag > PACE_LAG_S * rate:
        if time.monotonic() > until:
            raise StepFailed(
                f"the stream doesn't keep pace with {rate} trades a second: lag {lag} after {STEADY_DEADLINE_S:.0f} s; "
                "see `make status`, or take a lower --rate"
            )
        time.sleep(1)


def check_no_maintenance(context: Context) -> None:
    """Raise GuardRefused while a maintenance flag keeps the recovery away from a node."""
    for name in context.fleet.nodes:
        for flag in context.store.read_maintenance(name):
            raise GuardRefused(f"{flag} Nothing would be recovered there; resume the recovery first")


def begin_report(
    before: dict[str, Any],
    at_start: dict[str, Any],
    *,
    roles: Collection[Role],
    repairs: int,
    rate: int,
    seed: int | None,
) -> dict[str, Any]:
    """Return the report to write into: that of a killed run with the same arguments, else a new one.

    A new one keeps the rows of other roles. Raises InputError when those were measured under another load.
    """
    others = {name: select_other_roles(before.get(name, ()), roles) for name in ("repairs", "by_hand")}
    if any(others.values()) and before["trades_per_s"] != rate:
        raise InputError(
            f"the report holds repairs of other roles at {before['trades_per_s']:.0f} trades a second, and {rate} "
            "were requested: name another file with --report, or move that one away"
        )
    if can_continue(before, roles=roles, repairs=repairs, rate=rate, seed=seed):
        return before
    return {
        "machine": describe_machine(),
        "seed": int(datetime.now(UTC).timestamp()) if seed is None else seed,
        "run": {"roles": sorted(roles), "repairs": repairs, "finished": False},
        "trades_per_s": rate,
        "data": {"at_start": at_start},
        "quantiles": QUANTILES,
        **others,
        "summary": {},
        "account": None,
    }


def measure_data(context: Context) -> dict[str, Any]:
    """Return the amount of data: stored trades of those that Kafka still holds, and bytes on each node's volume."""
    return {
        "trades_stored": read_snapshot(context.settings).stored,
        "volume_bytes": {
            name: count_bytes(context.settings.node_volume(name)) for name in context.fleet.nodes
        },
    }


def count_bytes(directory: Path) -> int:
    """Return the bytes on disk of the files below ``directory``, each file once; 0 when it is gone."""
    taken: dict[int, int] = {}
    # By descriptors, because a node may exchange a directory for a link meanwhile.
    for _, _, names, folder in os.fwalk(directory) if directory.is_dir() else ():
        for name in names:
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:  # a service deletes files at any time
                continue
            taken[status.st_ino] = status.st_blocks * 512
    return sum(taken.values())


def stored_per_second(before: dict[str, Any], after: dict[str, Any], seconds: float) -> float | None:
    """Return trades stored a second between two measurements of the data; None if Kafka didn't answer."""
    first, last = before["trades_stored"], after["trades_stored"]
    return None if first is None or last is None else round(float(last - first) / seconds, 1)


def print_figures(console: Console, report: dict[str, Any], path: Path) -> None:
    """Print the figures by role, every single value, and the reconciliation."""
    from rich.table import Table

    table = Table(
        "role", "n", "healed", "detect", "silent", "repair", "consistent", "by hand", "ratio p50/max",
        "since detected", "largest phase",
        title="Seconds from the fault, p50/p95 (nearest rank)",
    )  # fmt: skip
    for role, of in report["summary"].items():
        ratio, phase = of["ratio"], of["largest_phase"]
        table.add_row(
            role, str(of["n"]), str(of["healed"]), *(_format_quantiles(of["modes"][mode]["detect"]) for mode in MODES),
            _format_quantiles(of["repair"]), _format_quantiles(of["consistent"]), str(of["by_hand"]["p50"]),
            f"{ratio['p50']}/{ratio['max']}",
            "; ".join(f"{mode} {of['modes'][mode]['ratio_since_detected']['max']}" for mode in MODES),
            f"{phase} {of['phase_shares'][phase]:.0%}" if phase else "",
        )  # fmt: skip
    console.print(table)
    single = Table(
        "node", "fault", "mode", "detect", "repair", "by hand", "ratio", "by", "outcome", title="Repairs"
    )
    for row in report["repairs"]:
        names = ("node", "fault", "mode", "detect_s", "repair_s", "by_hand_s", "ratio", "by", "outcome")
        single.add_row(*(str(row[name]) for name in names))
    console.print(single)
    for one in report["by_hand"]:
        if one["outcome"] != HEALED:
            console.print(f"{one['node']}, by hand after {one['fault']}: {one['outcome']}")
    for role, of in report["summary"].items():
        for name, aim in of["aims"].items():
            if not aim["met"]:
                console.print(f"{role}: {name} {aim['measured']}, aim {aim['wanted']}: missed")
    console.print(
        f"acted upon although nothing was wrong: {', '.join(find_wrong_actions(report)) or 'no node'}"
    )
    counted, volumes = report["account"], report["data"]["at_start"]["volume_bytes"]
    shown = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in volumes.items())
    console.print(
        f"data at the start, MiB: {shown}; stored {report['data'].get('stored_per_s')} trades a second"
    )
    console.print(f"{format_summary(counted)}; see {path}")


def _format_quantiles(of: dict[str, Any]) -> str:
    return f"{of['p50']}/{of['p95']} (n {of['n']})"

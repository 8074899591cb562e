"""Part ``probes``: the watches of a whole fleet against stand-in nodes, with seeded failures.

Per fleet: does each watch probe once a second, how late is the event loop, what does a probe cost, and is every failure
found in time, and nothing else?
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.fleet_simulation.figures import spread
from benchmarks.fleet_simulation.simulated_fleet import ZONES, installation, write_fleet
from benchmarks.fleet_simulation.stand_ins import NodeFault, PlannedFault
from kintsugi.core.certificates import create_authority
from kintsugi.core.fleet import REPOSITORY, Fleet

DETECTED_WITHIN_S: Mapping[NodeFault, float] = {NodeFault.REFUSE: 9.0, NodeFault.HANG: 20.0}
"""The aims: a node that refuses within 9 s, one that hangs within 20 s (docs/benchmarks.md)."""

FIRST_FAULT_S = 10.0
ZONE_LOST_BEFORE_END_S = 17.0
_LAST_FAULT_BEFORE_END_S = 32.0
_SHARE_REFUSE, _SHARE_HANG, _SHARE_PAUSE = 0.04, 0.02, 0.02


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """One run: a fleet of ``size`` nodes, watched for ``seconds``, with or without certificates."""

    size: int
    seconds: float
    mutual_tls: bool
    seed: int


def plan_faults(fleet: Fleet, run: ProbeRun) -> list[PlannedFault]:
    """Return the faults of a run by their time: single nodes at random, then a whole zone at once."""
    chance = random.Random(run.seed)  # noqa: S311 - repeatable, not secret
    names = list(fleet.nodes)
    chance.shuffle(names)
    faults: list[PlannedFault] = []
    last_s = run.seconds - _LAST_FAULT_BEFORE_END_S
    for fault, share in (
        (NodeFault.REFUSE, _SHARE_REFUSE),
        (NodeFault.HANG, _SHARE_HANG),
        (NodeFault.PAUSE, _SHARE_PAUSE),
    ):
        faults += [
            PlannedFault(chance.uniform(FIRST_FAULT_S, last_s), names.pop(), fault)
            for _ in range(max(1, round(share * run.size)))
        ]
    zone = chance.choice(ZONES)
    lost_s = run.seconds - ZONE_LOST_BEFORE_END_S
    faults += [
        PlannedFault(lost_s, name, NodeFault.REFUSE) for name in names if fleet.node(name).zone == zone
    ]
    return sorted(faults, key=lambda planned: planned.at_s)


def measure_probes(run: ProbeRun) -> dict[str, Any]:
    """Carry out a run in two processes of its own, and return its figures."""
    with tempfile.TemporaryDirectory(prefix="kintsugi-simulation-") as directory:
        state = Path(directory) / "state"
        state.mkdir(mode=0o755)
        variables = write_fleet(state, run.size, mutual_tls=run.mutual_tls)
        with installation(variables) as settings:
            if run.mutual_tls:
                create_authority(settings)
            plan = plan_faults(settings.fleet, run)
        (state / "plan.json").write_text(
            json.dumps([[planned.at_s, planned.node, planned.fault] for planned in plan])
        )
        reports = _run_processes(state / "plan.json", run.seconds, variables)
    return summarise(run, plan, reports)


@dataclass(frozen=True, slots=True)
class ProcessReports:
    """What the processes of a run report: the stand-ins, the watches, and the questions of judgements to the fleet."""

    served: Mapping[str, Any]
    watched: Mapping[str, Any]
    judged: Sequence[Mapping[str, Any]]


def _run_processes(plan: Path, seconds: float, variables: Mapping[str, str]) -> ProcessReports:
    """Let the stand-ins serve and the watches watch, then ask the fleet as a judgement does."""
    path = os.pathsep.join((str(REPOSITORY / "plugins"), str(REPOSITORY)))
    environment = {**os.environ, **variables, "PYTHONPATH": path}

    def start(module: str, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"benchmarks.fleet_simulation.{module}", *words]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    with start("stand_ins", str(plan)) as stand_ins:
        try:
            _expect(stand_ins, "ready")
            with start("watch_run", str(seconds)) as watches:
                _expect(watches, "watching")
                _send_line(stand_ins)
                watched = json.loads(_read_line(watches))
            with start("judgement_run") as judgement:
                judged = json.loads(_read_line(judgement))
            _send_line(stand_ins)
            return ProcessReports(json.loads(_read_line(stand_ins)), watched, judged)
        finally:
            stand_ins.kill()


def _expect(process: subprocess.Popen[str], word: str) -> None:
    line = _read_line(process).strip()
    if line != word:
        raise RuntimeError(f"{process.args!r} said {line!r} instead of {word!r}")


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _send_line(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def summarise(run: ProbeRun, plan: Sequence[PlannedFault], reports: ProcessReports) -> dict[str, Any]:
    """Return the figures of a run. Times in seconds unless the name ends in ``_ms`` or ``_us``."""
    watched, served = reports.watched, reports.served
    faulty = {planned.node for planned in plan}
    intervals = [
        later - earlier
        for name, starts in watched["starts_s"].items()
        if name not in faulty
        for earlier, later in pairwise(start for start in starts if start >= watched["since_s"])
    ]
    seconds, probes = watched["seconds"], watched["probes"]
    return {
        "nodes": run.size,
        "mutual_tls": run.mutual_tls,
        "seed": run.seed,
        "seconds": round(seconds, 1),
        "probes": probes,
        "probes_a_second": round(probes / seconds, 1),
        "results": watched["results"],
        "interval_s": spread(intervals),
        "latency_ms": spread([1000 * latency for latency in watched["latencies_s"]]),
        "loop_lag_ms": spread([1000 * lag for lag in watched["lags_s"]]),
        "triggerer_cores": round(watched["cpu_s"] / seconds, 3),
        "triggerer_waited_cores": round(watched["waited_s"] / seconds, 3),
        "triggerer_us_a_probe": round(1e6 * watched["cpu_s"] / probes),
        "ssh_cores": round(watched["cpu_of_ssh_s"] / seconds, 3),
        "stand_ins_cores": round(served["cpu_s"] / served["seconds"], 3),
        **judge_detections(served["faults"], watched["findings"]),
        "judgements": [judge_answer(answer, served["faults"]) for answer in reports.judged],
    }


def judge_answer(answer: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what one question to the whole fleet cost, and how many nodes it took for silent that answer."""
    broken = {fault["node"] for fault in faults if fault["fault"] != NodeFault.PAUSE}
    return {
        **{name: round(answer[name], 3) for name in ("s", "cpu_s", "blocked_s")},
        "silent": len(answer["silent"]),
        "false": len(set(answer["silent"]) - broken),
    }


def judge_detections(
    faults: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Compare faults with findings: how late each was found, which were lost or late, and which findings are false.

    A finding about a node that was not broken, or not yet, is false; so is one about a node that only paused.
    """
    broken = {fault["node"]: fault for fault in faults if fault["fault"] != NodeFault.PAUSE}
    delays: dict[str, list[float]] = {fault: [] for fault in DETECTED_WITHIN_S}
    late, false, found = [], [], set()
    for finding in findings:
        fault = broken.get(finding["node"])
        if fault is None or finding["at"] < fault["t0"]:
            false.append(finding["node"])
            continue
        found.add(finding["node"])
        delay_s = finding["at"] - fault["t0"]
        delays[fault["fault"]].append(delay_s)
        if delay_s > DETECTED_WITHIN_S[fault["fault"]]:
            late.append(finding["node"])
    return {
        "faults": {fault: sum(one["fault"] == fault for one in faults) for fault in NodeFault},
        "detected_s": {fault: spread(values) for fault, values in delays.items()},
        "lost": sorted(set(broken) - found),
        "late": sorted(late),
        "false": sorted(false),
    }

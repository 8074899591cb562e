"""What `make mttr` breaks in which order, and the figures from its rows. Pure.

A row is one recovery, as in ``build/mttr.json``; a hand start is the start and join of the same node by hand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import median
from typing import Any

from benchmarks.throughput.figures import compute_percentile
from kintsugi.chaos.victim_choice import shuffle_nodes
from kintsugi.core.fleet import Fleet, Role
from kintsugi.core.incident import Incident, Outcome

Row = dict[str, Any]
Look = tuple[float, bool]
"""Seconds since the fault, and whether the node was redundant then."""

FAULTS = ("process_death", "power_off", "lost_volume")
MODES = ("reset", "silent")
# The fault of the fault matrix (kintsugi.chaos.registry) by its kind and by how the node becomes silent.
KINDS: Mapping[tuple[str, str], str] = {
    ("process_death", "reset"): "process_killed",
    ("process_death", "silent"): "hung",
    ("power_off", "reset"): "power_off",
    ("power_off", "silent"): "host_hung",
    ("lost_volume", "reset"): "volume_lost",
    ("lost_volume", "silent"): "volume_lost_silent",
}
REPAIRS = 12  # of a role: each fault in each mode, twice
HEALED = "healed"

AIMS = {"detect_p95_s": 9.0, "ratio_max": 2.0, "repair_p50_s": 30.0, "repair_p95_s": 60.0}
QUANTILES = "nearest rank: always a value that was measured"


@dataclass(frozen=True, slots=True)
class Repair:
    """One fault that must be recovered. ``round``: how often the same fault and mode came, from 1."""

    role: Role
    node: str
    fault: str
    mode: str
    round: int

    @property
    def kind(self) -> str:
        """The fault's name in the fault matrix."""
        return KINDS[self.fault, self.mode]


@dataclass(frozen=True, slots=True)
class HandStart:
    """One start and join by hand of a node that was recovered after the same fault."""

    role: Role
    node: str
    fault: str
    round: int


def plan_steps(
    fleet: Fleet, seed: int, *, repairs: int = REPAIRS, roles: Collection[Role] = tuple(Role)
) -> list[Repair | HandStart]:
    """Return what is broken in which order: ``repairs`` of each role, and a hand start after each fault of a round.

    Roles take turns, so that one recovery does not affect the next of its role. A role's nodes take turns in the seed's
    order, which starts one node later in each round: no fault hits the same node twice before it has hit another. Hand
    starts are between the recoveries, because data grows during the run.
    """
    ranked = {
        role: [node.name for node in shuffle_nodes(seed, fleet.of(role))] for role in Role if role in roles
    }
    present = {role: names for role, names in ranked.items() if names}
    found: list[Repair | HandStart] = []
    for number in range(1, math.ceil(repairs / len(KINDS)) + 1):
        for fault in FAULTS:
            by_hand = []
            for mode in MODES:
                position = list(KINDS).index((fault, mode))
                if (number - 1) * len(KINDS) + position >= repairs:
                    continue
                for role, names in present.items():
                    node = names[(position + number - 1) % len(names)]
                    found.append(Repair(role, node, fault, mode, number))
                    if mode == MODES[0]:
                        by_hand.append(HandStart(role, node, fault, number))
            found += by_hand
    return found


def remaining_steps(
    planned: Sequence[Repair | HandStart], document: Mapping[str, Any]
) -> list[Repair | HandStart]:
    """Return what of the schedule has no row in the report yet."""
    repaired = {_key_of(row, "role", "fault", "mode", "round") for row in document.get("repairs", ())}
    started = {_key_of(row, "role", "fault", "round") for row in document.get("by_hand", ())}
    return [
        step
        for step in planned
        if (
            _key_of(asdict(step), "role", "fault", "mode", "round") not in repaired
            if isinstance(step, Repair)
            else _key_of(asdict(step), "role", "fault", "round") not in started
        )
    ]


def _key_of(row: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in names)


def can_continue(
    document: Mapping[str, Any], *, roles: Collection[Role], repairs: int, rate: int, seed: int | None
) -> bool:
    """Whether the report is of a run with the same arguments that was killed before its end."""
    run = document.get("run", {})
    asked = {"roles": sorted(roles), "repairs": repairs, "finished": False}
    same = {name: run.get(name) for name in asked} == asked and document["trades_per_s"] == rate
    return same and seed in (None, document["seed"])


def select_other_roles(rows: Iterable[Row], roles: Collection[Role]) -> list[Row]:
    """Return the rows that a run of ``roles`` doesn't replace."""
    return [row for row in rows if row["role"] not in {role.value for role in roles}]


def serves_again_s(looks: Iterable[Look], acted_until_s: float = 0.0) -> float | None:
    """Return seconds from the fault to the first observation of the node as ready; None when there was none.

    Only observations after something was missing, and after the recovery's last action (``acted_until_s``), count. A
    node may be restarted by its init, and by the recovery again after that.
    """
    sick = False
    for at_s, redundant in looks:
        sick = sick or not redundant
        if sick and redundant and at_s >= acted_until_s:
            return at_s
    return None


def acted_until_s(incidents: Iterable[Incident], t0: datetime) -> float:
    """Return seconds from the fault to the end of the last restart or configuration; 0 without one."""
    ends = [
        (entry.at - t0).total_seconds()
        for incident in incidents
        for entry in incident.entries
        if entry.step in ("restart", "configure") and entry.data.get("mark") == "end"
    ]
    return max(ends, default=0.0)


def row_of(
    planned: Repair, t0: datetime, incidents: Sequence[Incident], looks: Sequence[Look], trouble: str | None
) -> Row:
    """Return the row of one recovery; seconds since the fault at ``t0``.

    ``incidents``: those of the node since then, oldest first. ``trouble``: why it isn't over, None when it is.
    Phases and ``consistent_s`` are those of the last incident with an action, else of the last one.
    """
    acting = [one for one in incidents if one.attempts()] or incidents
    last = acting[-1] if acting else None
    attempts = [action.value for one in incidents for action in one.attempts()]
    return {
        **asdict(planned),
        "kind": planned.kind,
        "at": t0.isoformat(),
        "detect_s": _round_seconds((incidents[0].detected_at - t0).total_seconds()) if incidents else None,
        "repair_s": _round_seconds(serves_again_s(looks, acted_until_s(incidents, t0))),
        "consistent_s": _seconds_since(last.consistent_at, t0) if last else None,
        "phases": {phase.value: round(seconds, 1) for phase, seconds in last.phases().items()}
        if last
        else {},
        "attempts": attempts,
        "by": ", ".join(attempts) or "init",
        "incidents": [one.id for one in incidents],
        "outcome": trouble or _outcome_of(incidents),
    }


def _outcome_of(incidents: Sequence[Incident]) -> str:
    """Return the outcome: a node that serves with nothing open is healed, unless its last incident says otherwise."""
    last = incidents[-1] if incidents else None
    if last is None or last.outcome in (Outcome.HEALED, Outcome.FALSE_ALARM):
        return HEALED
    return f"{last.outcome}: {last.reason}"


def _seconds_since(moment: datetime | None, t0: datetime) -> float | None:
    return None if moment is None else _round_seconds((moment - t0).total_seconds())


def _round_seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds), 1)


def add_hand_starts(rows: Iterable[Row], started: Sequence[Row]) -> list[Row]:
    """Return the rows with ``by_hand_s`` and ``ratio``: recovery ÷ hand start of the same node after the same fault.

    ``ratio_since_detected`` leaves out the seconds before the detection, which the hand start does not have either.

    Without a hand start of that node after that fault: ÷ the median of its role after that fault, else None.
    """
    found = []
    for row in rows:
        by_hand_s = _find_by_hand_s(row, started)
        ratio = _divide_times(row["repair_s"], 0.0, by_hand_s)
        since = _divide_times(row["repair_s"], row["detect_s"] or 0.0, by_hand_s)
        found.append({**row, "by_hand_s": by_hand_s, "ratio": ratio, "ratio_since_detected": since})
    return found


def _divide_times(repair_s: float | None, detect_s: float, by_hand_s: float | None) -> float | None:
    return round((repair_s - detect_s) / by_hand_s, 2) if repair_s is not None and by_hand_s else None


def _find_by_hand_s(row: Row, started: Sequence[Row]) -> float | None:
    for same in (("role", "fault", "node"), ("role", "fault")):
        values: list[float] = [
            one["by_hand_s"]
            for one in started
            if one["by_hand_s"] is not None and all(one[name] == row[name] for name in same)
        ]
        if values:
            return round(median(values), 1)
    return None


def summarize_rows(rows: Sequence[Row], started: Sequence[Row]) -> dict[str, Any]:
    """Return by role: recoveries, how many healed, quantiles in seconds, the share of each phase, the aims."""
    return {
        role.value: _summarize_role(
            [row for row in rows if row["role"] == role.value],
            [one for one in started if one["role"] == role.value],
        )
        for role in Role
        if any(row["role"] == role.value for row in rows)
    }


def _summarize_role(rows: Sequence[Row], started: Sequence[Row]) -> dict[str, Any]:
    shares = phase_shares(rows)
    found: dict[str, Any] = {
        "n": len(rows),
        "healed": sum(row["outcome"] == HEALED for row in rows),
        **{
            name: compute_quantiles(row[f"{name}_s"] for row in rows)
            for name in ("detect", "repair", "consistent")
        },
        "by_hand": compute_quantiles(one["by_hand_s"] for one in started),
        "ratio": compute_quantiles(row["ratio"] for row in rows),
        "phase_shares": shares,
        "largest_phase": max(shares, key=shares.__getitem__, default=None),
    }
    modes = {
        mode: {
            name: compute_quantiles(row[key] for row in rows if row["mode"] == mode)
            for name, key in (("detect", "detect_s"), ("repair", "repair_s"), ("ratio", "ratio"),
                              ("ratio_since_detected", "ratio_since_detected"))
        }
        for mode in MODES
    }  # fmt: skip
    return {**found, "modes": modes, "aims": _judge_aims(found, modes)}


def compute_quantiles(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """Return ``n``, ``p50``, ``p95`` and ``max`` of the measured values, by nearest rank; None without any."""
    measured = [value for value in values if value is not None]
    if not measured:
        return {"n": 0, "p50": None, "p95": None, "max": None}
    return {
        "n": len(measured),
        "p50": compute_percentile(measured, 50),
        "p95": compute_percentile(measured, 95),
        "max": max(measured),
    }


def phase_shares(rows: Iterable[Row]) -> dict[str, float]:
    """Return each phase's share of the seconds of all phases of these recoveries; empty when none was measured."""
    spent: Counter[str] = Counter()
    for row in rows:
        spent.update(row["phases"])
    total = sum(spent.values())
    return {phase: round(seconds / total, 3) for phase, seconds in spent.items()} if total else {}


def _judge_aims(found: Mapping[str, Any], modes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each aim: the aim, the measured value (or None), and whether it was met.

    Detection is measured where the node refuses: silence is no proof before it has lasted ``HUNG_AFTER_S``.
    """
    measured = {
        "detect_p95_s": modes["reset"]["detect"]["p95"],
        "ratio_max": found["ratio"]["max"],
        "repair_p50_s": found["repair"]["p50"],
        "repair_p95_s": found["repair"]["p95"],
    }
    return {
        name: {"wanted": wanted, "measured": measured[name],
               "met": measured[name] is not None and measured[name] <= wanted}
        for name, wanted in AIMS.items()
    }  # fmt: skip

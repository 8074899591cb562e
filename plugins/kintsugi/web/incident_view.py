"""An incident as the page shows it: outcome, bar of phases, reasons, plan, logs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from kintsugi.core.incident import Incident, JournalEntry, Outcome, Phase
from kintsugi.db.dashboard import Experiment
from kintsugi.recovery.plan_policy import planned_changes
from kintsugi.web.severity import Severity

LEVELS = {
    None: Severity.BUSY,
    Outcome.HEALED: Severity.WELL,
    Outcome.FALSE_ALARM: Severity.NOTE,
    Outcome.DRY_RUN: Severity.NOTE,
    Outcome.REFUSED: Severity.BAD,
    Outcome.FAILED: Severity.BAD,
}
NAMES = {
    None: "being repaired",
    Outcome.HEALED: "recovered",
    Outcome.FALSE_ALARM: "false alarm",
    Outcome.DRY_RUN: "dry run",
    Outcome.REFUSED: "refused",
    Outcome.FAILED: "failed",
}
BAR_WIDTH = 1000.0
_NARROWEST = 6.0  # the minimum width of a phase


@dataclass(frozen=True, slots=True)
class Segment:
    """One phase in the bar: ``x`` and ``width`` of 1000, ``seconds`` as measured."""

    phase: Phase
    x: float
    width: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """An incident in a list."""

    incident: Incident
    level: Severity
    outcome: str
    bar: tuple[Segment, ...]
    seconds: float | None

    @property
    def spoken(self) -> str:
        """The bar in words, for screen readers."""
        return ", ".join(f"{segment.phase} {segment.seconds:.1f} s" for segment in self.bar)


def build_row(incident: Incident) -> Row:
    """The row of an incident in a list; ``seconds``: until the node was ready again, None while it is not."""
    name = "waits for a decision" if incident.awaits_decision else NAMES[incident.outcome]
    return Row(incident, LEVELS[incident.outcome], name, build_bar(incident.phases()), incident.repair_s)


def build_bar(phases: Mapping[Phase, float]) -> tuple[Segment, ...]:
    """Phases side by side; the width of each is its share of the time."""
    total = sum(phases.values())
    if not phases:
        return ()
    shares = {p: max(_NARROWEST, BAR_WIDTH * s / total) if total else BAR_WIDTH for p, s in phases.items()}
    scale = BAR_WIDTH / sum(shares.values())
    segments, x = [], 0.0
    for phase, share in shares.items():
        width = share * scale
        segments.append(Segment(phase, round(x, 2), round(width, 2), phases[phase]))
        x += width
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One line of the journal as shown: ``after_s`` is seconds since the failure began."""

    at: datetime
    after_s: float
    step: str
    message: str
    weight: str  # plain, reason, trouble


def list_journal(incident: Incident) -> list[JournalLine]:
    """The journal without the entries that mark only the start or end of a step."""
    return [
        JournalLine(
            entry.at,
            (entry.at - incident.started_at).total_seconds(),
            entry.step,
            entry.message,
            _weigh_entry(entry),
        )
        for entry in incident.entries
        if entry.message not in ("started", "done")
    ]


def _weigh_entry(entry: JournalEntry) -> str:
    if entry.data.get("mark") == "failed" or "refused" in entry.data:
        return "trouble"
    reasons = ("verdict", "chosen", "action", "outcome", "approved")
    return "reason" if any(key in entry.data for key in reasons) else "plain"


@dataclass(frozen=True, slots=True)
class Change:
    """One resource in Terraform's plan: its address and the planned actions."""

    address: str
    actions: str


def list_changes(document: Mapping[str, Any]) -> list[Change]:
    """The changes of a plan from ``terraform show -json``; unchanged resources are left out."""
    return [Change(address, " then ".join(actions)) for address, actions in planned_changes(document).items()]


@dataclass(frozen=True, slots=True)
class ChaosScore:
    """The results of chaos: ``healed`` of ``total`` faults with a known outcome, and the median seconds to repair."""

    total: int
    healed: int
    median_s: float | None


def score_chaos(faults: Sequence[Experiment]) -> ChaosScore:
    """The score over ``faults``."""
    ended = [fault for fault in faults if fault.outcome is not None]
    healed = [fault for fault in ended if fault.outcome is Outcome.HEALED]
    times = [(f.redundant_at - f.t0).total_seconds() for f in healed if f.redundant_at is not None]
    return ChaosScore(len(ended), len(healed), median(times) if times else None)

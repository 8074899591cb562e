"""The trace of an incident: its journal as spans. Pure.

The root span lasts from the failure (``t0``, or the first failed probe) to the end of the incident. Below it is one
span for each pass of a phase. A journal entry is written when its step is done, so the time since the previous entry
belongs to the phase of the entry. The spans of a phase add up to the time in ``Incident.phases()``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kintsugi.core.dag_ids import is_replacement
from kintsugi.core.incident import PHASE_OF_STEP, Incident, JournalEntry, Outcome, Phase
from kintsugi.telemetry.trace import Moment, Span

_WELL = (Outcome.HEALED, Outcome.FALSE_ALARM, Outcome.DRY_RUN)
# The types that an attribute of a span may have; the data of a journal entry may have others.
_SCALARS = (str, bool, int, float)


@dataclass(slots=True)
class _Stretch:
    """Consecutive entries of one phase, from the entry before the first to the last."""

    name: str
    start: datetime
    end: datetime
    entries: list[JournalEntry] = field(default_factory=list)


def incident_trace(incident: Incident) -> Span:
    """The trace of a closed incident; its key is the incident's id."""
    closed_at = incident.closed_at or max([incident.detected_at, *(entry.at for entry in incident.entries)])
    failed = incident.outcome is not None and incident.outcome not in _WELL
    return Span(
        key=incident.id,
        # A replacement on purpose is no failure: the SLO counts spans called incident.
        name="replacement" if is_replacement(incident.holder) else "incident",
        start=incident.started_at,
        end=closed_at,
        attributes=_build_attributes(incident),
        error=(incident.reason or str(incident.outcome)) if failed else None,
        children=_build_spans(incident, closed_at),
    )


def _build_attributes(incident: Incident) -> dict[str, str | int | float]:
    attributes: dict[str, str | int | float | None] = {
        "host.name": incident.node,
        "kintsugi.node": incident.node,
        "kintsugi.role": incident.role.value,
        "kintsugi.incident.id": incident.id,
        "kintsugi.incident.outcome": incident.outcome.value if incident.outcome else "open",
        "kintsugi.incident.reason": incident.reason,
        "kintsugi.incident.injected": int(incident.t0 is not None),
        "kintsugi.incident.attempts": incident.attempt,
        "kintsugi.incident.last_action": next(
            (str(action) for action in reversed(incident.attempts())), None
        ),
        "kintsugi.detect_s": incident.detect_s,
        "kintsugi.repair_s": incident.repair_s,
        "kintsugi.consistent_s": incident.consistent_s,
        "error.type": incident.outcome.value
        if incident.outcome in (Outcome.FAILED, Outcome.REFUSED)
        else None,
    }
    attributes |= {f"kintsugi.phase.{phase}_s": seconds for phase, seconds in incident.phases().items()}
    return {name: value for name, value in attributes.items() if value is not None}


def _build_spans(incident: Incident, closed_at: datetime) -> list[Span]:
    detect = _Stretch(Phase.DETECT, incident.started_at, incident.detected_at)
    entries = sorted(incident.entries, key=lambda entry: entry.at)
    stretches = [detect, *_split_by_phase(incident.detected_at, entries), *_list_parallel_steps(entries)]
    count: Counter[str] = Counter()
    spans = []
    for stretch in sorted(stretches, key=lambda stretch: stretch.start):
        if stretch.start > closed_at:
            continue
        count[stretch.name] += 1
        spans.append(_build_span(incident, stretch, count[stretch.name], closed_at))
    return spans


def _split_by_phase(detected_at: datetime, entries: Sequence[JournalEntry]) -> list[_Stretch]:
    """The journal, split where the phase changes; a step without a phase (record, repair) is named by itself."""
    stretches: list[_Stretch] = []
    waiting: list[JournalEntry] = []  # of steps whose time belongs to the next one
    last = detected_at
    for entry in entries:
        if entry.kind not in PHASE_OF_STEP:
            waiting.append(entry)
            continue
        if "seconds" in entry.data:
            continue
        name = str(PHASE_OF_STEP[entry.kind] or entry.kind)
        if not stretches or stretches[-1].name != name:
            stretches.append(_Stretch(name, last, last))
        last = max(last, entry.at)
        stretches[-1].end = last
        stretches[-1].entries += [*waiting, entry]
        waiting = []
    return stretches


def _list_parallel_steps(entries: Sequence[JournalEntry]) -> list[_Stretch]:
    """Steps that ran in parallel and recorded their own duration."""
    return [
        _Stretch(
            str(PHASE_OF_STEP[entry.kind] or entry.kind),
            entry.at - timedelta(seconds=float(entry.data["seconds"])),
            entry.at,
            [entry],
        )
        for entry in entries
        if entry.kind in PHASE_OF_STEP and "seconds" in entry.data
    ]


def _build_span(incident: Incident, stretch: _Stretch, number: int, closed_at: datetime) -> Span:
    failures = [entry for entry in stretch.entries if entry.data.get("mark") == "failed"]
    return Span(
        key=f"{stretch.name}/{number}",
        name=stretch.name,
        start=stretch.start,
        # The step that closes the incident writes "done" just after the end.
        end=max(stretch.start, min(stretch.end, closed_at)),
        attributes={
            "host.name": incident.node,
            "kintsugi.node": incident.node,
            "kintsugi.incident.id": incident.id,
            "kintsugi.phase": stretch.name,
            "kintsugi.phase.turn": number,
        },
        moments=[_to_moment(entry) for entry in stretch.entries],
        error=f"{failures[-1].step} {failures[-1].message}" if failures else None,
    )


def _to_moment(entry: JournalEntry) -> Moment:
    data = {f"kintsugi.{name}": value for name, value in entry.data.items() if isinstance(value, _SCALARS)}
    return Moment(entry.at, entry.step, {"kintsugi.message": entry.message, **data})

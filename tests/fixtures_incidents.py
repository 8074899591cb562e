"""Incidents for tests: a rebuild as its journal records it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry, Outcome

T0 = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """That many seconds after T0."""
    return T0 + timedelta(seconds=seconds)


def entry(after: float, step: str, message: str = "done", /, **data: Any) -> JournalEntry:
    return JournalEntry(at(after), step, message, data)


REBUILD = (
    entry(3.5, "confirm", "kafka-2 looks down", finding=True),
    entry(5.0, "confirm", "the host is lost", verdict="host_lost"),
    entry(6.0, "guard", "the guards allow: rebuild"),
    entry(6.5, "attempt", "rebuild", action="rebuild"),
    entry(7.0, "decide", "a lost host is rebuilt", chosen="rebuild"),
    entry(8.0, "archive", "archived 2 logs", seconds=1.5),
    entry(9.0, "fence", "nothing is left running"),
    entry(10.0, "plan", "2 to replace"),
    entry(14.0, "provision", mark="end"),
    entry(24.0, "configure", mark="end"),
    entry(40.0, "rejoin", "in sync again"),
    entry(44.0, "repair", "kafka-2 votes"),
    entry(47.0, "verify", "kafka-2 leads a partition"),
    entry(50.0, "canary", "the canary went through", mark="end"),
    entry(51.0, "record", "kafka-2 leads a partition", outcome="healed"),
)


def healed(name: str = "kafka-2", later: float = 0.0, **changes: Any) -> Incident:
    """A rebuild of ``name`` that was healed; the whole story ``later`` seconds later, with ``changes``."""
    shift = timedelta(seconds=later)
    story = Incident(
        id=f"{name}-{at(4 + later):%Y%m%dT%H%M%SZ}-9f3c",
        node=name,
        role=Role.KAFKA,
        opened_at=at(4 + later),
        first_failed_at=at(1 + later),
        detected_at=at(3 + later),
        holder=f"watch_{name}/run-1",
        t0=at(later),
        entries=tuple(replace(line, at=line.at + shift) for line in REBUILD),
        closed_at=at(51.2 + later),
        outcome=Outcome.HEALED,
        reason="kafka-2 leads a partition",
        redundant_at=at(40 + later),
        consistent_at=at(44 + later),
    )
    return replace(story, **changes)


def refused(name: str = "kafka-2", later: float = 0.0, *, is_open: bool = False) -> Incident:
    """A repair that a guard refused; closed 30 minutes later, unless it is open."""
    story = healed(name, later)
    lines = (
        *story.entries[:2],
        JournalEntry(at(6 + later), "guard", "refused: 2 of 3 are sick", {"refused": ["2 of 3 are sick"]}),
    )
    return replace(
        story,
        entries=lines,
        redundant_at=None,
        consistent_at=None,
        reason=None,
        closed_at=None if is_open else at(1806 + later),
        outcome=None if is_open else Outcome.REFUSED,
    )

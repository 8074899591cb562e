"""An incident: one failure of one node, from the first failed probe to the verified end. No I/O.

The journal (``entries``) is append-only, and each entry is written when its step is done. So the time since the entry
before is the duration of the step. Phases are measured this way, and their sum is the duration of the whole incident.
The wait for a scheduler counts for the step that waited.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from kintsugi.core.fleet import Role


class Phase(StrEnum):
    """A phase of a recovery, as reported."""

    DETECT = "detect"
    CONFIRM = "confirm"
    ARCHIVE = "archive"
    PROVISION = "provision"
    CONFIGURE = "configure"
    REJOIN = "rejoin"
    VERIFY = "verify"


class Outcome(StrEnum):
    """How an incident ended."""

    HEALED = "healed"
    FALSE_ALARM = "false_alarm"
    REFUSED = "refused"
    FAILED = "failed"
    DRY_RUN = "dry_run"


class Action(StrEnum):
    """What is done about a node that is down. ``AUTO`` is only a request: Kintsugi decides."""

    AUTO = "auto"
    RESTART = "restart"  # restart the service, without other changes
    REBUILD_NODE = "rebuild_node"  # a new node on the old volume
    REBUILD = "rebuild"  # a new node and a new, empty volume
    ROLL_BACK = "roll_back"  # to the last known-good release
    WAIT = "wait"  # observe the node again later
    STAND_DOWN = "stand_down"  # nothing is wrong: close without action
    PAGE = "page"  # a person has to look

    @property
    def changes(self) -> bool:
        """Whether it changes the node, and so counts as an attempt."""
        return self in (Action.RESTART, Action.ROLL_BACK, Action.REBUILD_NODE, Action.REBUILD)

    @property
    def destroys(self) -> bool:
        """Whether a node (with or without its volume) is destroyed."""
        return self in (Action.REBUILD_NODE, Action.REBUILD)

    @property
    def destroys_volume(self) -> bool:
        return self is Action.REBUILD


ATTEMPT = "attempt"
"""Step name of the entry that records an action before it is carried out; data: ``{"action": …}``."""

WITHDRAWN = "attempt.withdrawn"
"""Step name of the entry that withdraws an attempt; data: ``{"attempt": <its key>}``."""

PHASE_OF_STEP: Mapping[str, Phase | None] = {
    "confirm": Phase.CONFIRM,
    "guard": Phase.CONFIRM,
    "decide": Phase.CONFIRM,
    "archive": Phase.ARCHIVE,
    "archive_logs": Phase.ARCHIVE,
    "fence": Phase.PROVISION,
    "plan": Phase.PROVISION,
    "provision": Phase.PROVISION,
    "configure": Phase.CONFIGURE,
    "restart": Phase.CONFIGURE,
    "rejoin": Phase.REJOIN,
    "verify": Phase.VERIFY,
    "canary": Phase.VERIFY,
    # Their time belongs to no phase: the node serves again, and `consistent_s` has the time until it is consistent.
    "repair": None,
    "record": None,
    "drain": None,  # of a replacement on purpose: the node served until then
}
"""Phase by step. ``rejoin.voter`` counts as ``rejoin``. The time of an unlisted step counts for the next one."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One entry of the journal. ``at`` is UTC by the database's clock; ``data`` is JSON."""

    at: datetime
    step: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The step without its detail: ``rejoin`` for ``rejoin.voter``."""
        return self.step.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Incident:
    """One failure and everything that was done about it. Times are UTC.

    ``t0``: the injector's timestamp just before the fault, None if no fault was injected.
    ``redundant_at``: when the node was ready again. ``consistent_at``: when its data was consistent again.
    """

    id: str
    node: str
    role: Role
    opened_at: datetime
    first_failed_at: datetime
    detected_at: datetime
    holder: str
    t0: datetime | None = None
    entries: tuple[JournalEntry, ...] = ()
    closed_at: datetime | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    redundant_at: datetime | None = None
    consistent_at: datetime | None = None

    @property
    def started_at(self) -> datetime:
        """When the failure began: ``t0``, or the first failed probe if there is no ``t0``."""
        return self.t0 or self.first_failed_at

    @property
    def detect_s(self) -> float:
        """Seconds from the failure to the sensor's event."""
        return _seconds_between(self.started_at, self.detected_at)

    @property
    def repair_s(self) -> float | None:
        """Seconds from the failure until the node was ready again; None while it isn't."""
        return None if self.redundant_at is None else _seconds_between(self.started_at, self.redundant_at)

    @property
    def consistent_s(self) -> float | None:
        """Seconds from the failure until the node's data was consistent again; None while it isn't."""
        return None if self.consistent_at is None else _seconds_between(self.started_at, self.consistent_at)

    @property
    def last_word(self) -> datetime:
        """When it was closed, else the time of the newest journal entry, else when it was opened."""
        return self.closed_at or max([self.opened_at, *(entry.at for entry in self.entries)])

    @property
    def awaits_decision(self) -> bool:
        """Whether the guards refused and nobody has decided since: a person is waited for."""
        if self.closed_at is not None:
            return False
        for entry in reversed(self.entries):
            beside = PHASE_OF_STEP.get(entry.kind) is Phase.ARCHIVE or (
                entry.kind == "guard" and "mark" in entry.data
            )
            if not beside:
                return entry.kind == "guard" and "refused" in entry.data
        return False

    def phases(self) -> dict[Phase, float]:
        """Return seconds by phase, in the order of ``Phase``; a phase that never happened is left out.

        The time since the entry before (for the first entry: since the sensor's event) counts for the entry's phase.
        If a phase happened twice, its times are added. An entry with ``seconds`` in its data was measured by its own
        step, which ran in parallel and takes no time from the others.
        """
        spent = {Phase.DETECT: self.detect_s}
        last = self.detected_at
        for entry in sorted(self.entries, key=lambda entry: entry.at):
            if entry.kind not in PHASE_OF_STEP:
                continue
            phase, beside = PHASE_OF_STEP[entry.kind], entry.data.get("seconds")
            if phase is not None:
                spent[phase] = spent.get(phase, 0.0) + (
                    _seconds_between(last, entry.at) if beside is None else beside
                )
            if beside is None:
                last = max(last, entry.at)
        return {phase: round(spent[phase], 3) for phase in Phase if phase in spent}

    def attempts(self) -> list[Action]:
        """Return the actions begun so far, oldest first; the next escalation step follows from them.

        Withdrawn attempts don't count, such as one that a guard refused at the last moment.
        """
        withdrawn = {entry.data["attempt"] for entry in self.entries if entry.step == WITHDRAWN}
        return [
            Action(entry.data["action"])
            for entry in self.entries
            if entry.step == ATTEMPT and entry.data.get("key") not in withdrawn
        ]

    def attempt_of(self, run: str) -> Action | None:
        """Return the action that ``run`` (the holder of its case) began and did not withdraw; None if there is none."""
        withdrawn = any(entry.step == WITHDRAWN and entry.data["attempt"] == run for entry in self.entries)
        begun = [entry for entry in self.entries if entry.step == ATTEMPT and entry.data.get("key") == run]
        return Action(begun[-1].data["action"]) if begun and not withdrawn else None

    def runs(self) -> list[str]:
        """Return the runs that have worked on it (``<dag>/<run>``), newest first."""
        confirmed = [str(entry.data["run"]) for entry in self.entries if entry.data.get("run")]
        return list(dict.fromkeys([self.holder, *reversed(confirmed)]))

    @property
    def acted(self) -> bool:
        """Whether anything was changed on the node."""
        return any(action.changes for action in self.attempts())

    @property
    def attempt(self) -> int:
        """How many attempts were begun: 0 before the first one, then the number of the current one."""
        return len(self.attempts())

    def to_json(self) -> dict[str, Any]:
        """Return the whole incident as JSON types; times as ISO 8601 with offset, durations in seconds."""
        return {
            "id": self.id,
            "node": self.node,
            "role": self.role.value,
            "outcome": self.outcome and self.outcome.value,
            "reason": self.reason,
            "holder": self.holder,
            **{name: _format_time(getattr(self, name)) for name in _TIMES},
            "detect_s": round(self.detect_s, 3),
            "repair_s": _round_seconds(self.repair_s),
            "consistent_s": _round_seconds(self.consistent_s),
            "phases": {phase.value: seconds for phase, seconds in self.phases().items()},
            "attempts": [action.value for action in self.attempts()],
            "acted": self.acted,
            "awaits_decision": self.awaits_decision,
            "entries": [
                {
                    "at": _format_time(entry.at),
                    "step": entry.step,
                    "message": entry.message,
                    "data": dict(entry.data),
                }
                for entry in self.entries
            ],
        }


@dataclass(frozen=True, slots=True)
class RepairBudget:
    """The database's facts for the guards; read again in the transaction that begins an attempt.

    ``maintenance``: the current flags for this node, as sentences; without a flag of the incident's own run.
    ``repairs_*``: attempts in the last hour, without the one that is about to begin.
    ``pending``: other nodes of this role with a pending data repair.
    ``role_attempts``: other nodes of this role in recovery that aren't ready yet, with the time of their attempt.
    """

    maintenance: tuple[str, ...]
    repairs_of_node: int
    repairs_of_fleet: int
    pending: frozenset[str]
    role_attempts: Mapping[str, datetime] = field(default_factory=dict)


def acted_on_others(incidents: Iterable[Incident], broken: Collection[str]) -> list[str]:
    """Return the nodes that were changed although they aren't among ``broken``, sorted."""
    return sorted({one.node for one in incidents if one.acted and one.node not in broken})


_TIMES = (
    "t0",
    "first_failed_at",
    "detected_at",
    "opened_at",
    "redundant_at",
    "consistent_at",
    "closed_at",
)


def incident_id(node: str, opened_at: datetime) -> str:
    """Return a readable, unique id: ``kafka-2-20260801T021500Z-9f3c``."""
    return f"{node}-{opened_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def _seconds_between(start: datetime, end: datetime) -> float:
    # The clocks of two machines may differ slightly; a negative duration would be confusing.
    return max(0.0, (end - start).total_seconds())


def _round_seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _format_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()

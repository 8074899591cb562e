"""Find kills of live nodes in what an independent recorder observed (`benchmarks.kill_recorder`). Pure.

A *kill of a live node* is the death of a node's init or of its service which

1. answered us or a peer within SILENCE_S before it was found dead,
2. was not ended by the experiment itself (`Announcement`), and
3. did not end by itself, according to its init.

Its platform said that it runs, because the process was alive one observation earlier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

SILENCE_S = 5.0
ANNOUNCED_FOR = timedelta(seconds=20)  # a frozen disk or a busy machine lets a process die late
SAME_DEATH = timedelta(seconds=5)  # an init and the services that die with it


@dataclass(frozen=True, slots=True)
class Death:
    """A process that was alive at one observation and gone at the next. Times are UTC.

    ``what``: ``init`` or ``service``. ``started_at``: its start, to a hundredth of a second. ``at``: when it was found
    dead. ``heard_at``, ``heard_by``: the last answer of the node to anybody. ``end``: the cause according to the node's
    init (`find_service_end`).
    """

    node: str
    what: str
    pid: int
    started_at: datetime
    at: datetime
    heard_at: datetime | None
    heard_by: str
    end: str

    def to_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name) for name in ("started_at", "at", "heard_at")}
        return {
            "kind": "death",
            "node": self.node,
            "what": self.what,
            "pid": self.pid,
            **{name: at.isoformat() if at else None for name, at in times.items()},
            "heard_by": self.heard_by,
            "end": self.end,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Death:
        heard = line["heard_at"]
        return cls(
            node=line["node"],
            what=line["what"],
            pid=line["pid"],
            started_at=datetime.fromisoformat(line["started_at"]),
            at=datetime.fromisoformat(line["at"]),
            heard_at=datetime.fromisoformat(heard) if heard else None,
            heard_by=line["heard_by"],
            end=line["end"],
        )

    @property
    def silent_s(self) -> float | None:
        """Seconds since its last answer; None when nobody ever heard it."""
        return None if self.heard_at is None else (self.at - self.heard_at).total_seconds()

    def __str__(self) -> str:
        heard = (
            "was never heard"
            if self.silent_s is None
            else f"{self.heard_by} heard it {self.silent_s:.1f} s before"
        )
        return f"{self.node}: {self.what} (pid {self.pid}) ended at {self.at:%H:%M:%S}, {heard}; its init: {self.end}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """The experiment is about to end processes of ``node``, those that run ``at`` that moment (UTC)."""

    node: str
    at: datetime

    def explains(self, death: Death) -> bool:
        """Whether the experiment ended this process: it ran at that moment, and died soon after."""
        since = death.at - self.at
        return (
            death.node == self.node and death.started_at <= self.at and timedelta(0) <= since <= ANNOUNCED_FOR
        )


EXITED = "exited by itself"


def find_service_end(log: str, service: str) -> str:
    """Return the end of the service according to the newest lines of the node's init.

    ``exited by itself``, or supervisord's own words; ``unknown`` when the lines don't tell.
    """
    found = re.findall(rf"(exited|stopped): {re.escape(service)} \((.*)\)", log)
    if not found:
        return "unknown"
    word, how = found[-1]
    if word == "exited" and how.startswith("exit status"):
        return EXITED
    return f"{word} ({how})"


def find_unexplained_deaths(deaths: Iterable[Death], announcements: Sequence[Announcement]) -> list[Death]:
    """Return the deaths that neither the experiment nor the process itself caused, one a node and moment, by time."""
    found = list[Death]()
    for death in sorted(deaths, key=lambda one: one.at):
        if death.end == EXITED or any(announcement.explains(death) for announcement in announcements):
            continue
        if any(one.node == death.node and death.at - one.at < SAME_DEATH for one in found):
            continue
        found.append(death)
    return found


def find_live_kills(
    deaths: Iterable[Death], announcements: Sequence[Announcement], allowed: Iterable[str] = ()
) -> list[Death]:
    """Return the unexplained deaths of nodes that somebody had just heard.

    ``allowed``: nodes whose service may be ended by the design of the experiment.
    """
    may = set(allowed)
    heard = [death for death in deaths if death.silent_s is not None and death.silent_s <= SILENCE_S]
    return [
        one
        for one in find_unexplained_deaths(heard, announcements)
        if one.node not in may or one.what != "service"
    ]


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded in a period: deaths, and the longest time without an observation, in seconds."""

    deaths: tuple[Death, ...]
    blind_s: float

    @classmethod
    def from_lines(cls, lines: Iterable[Mapping[str, Any]], since: datetime, until: datetime) -> Recording:
        """Build it from the lines of one period; ``look`` lines prove that the recorder observed at that moment."""
        lines = list(lines)
        looks = [datetime.fromisoformat(line["at"]) for line in lines if line["kind"] == "look"]
        inside = [since, *(at for at in looks if since < at < until), until]
        blind = max(later - earlier for earlier, later in pairwise(inside))
        deaths = (Death.from_json(line) for line in lines if line["kind"] == "death")
        return cls(tuple(death for death in deaths if since <= death.at <= until), blind.total_seconds())

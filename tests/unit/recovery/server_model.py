"""A model of one node: what is true of it, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.core.observation import (
    ProbeResult,
)


@dataclass
class Server:
    """The truth about one node. ``held``: which records its disk has; the newest is the last."""

    name: str
    role: Role
    process: str = "up"  # up, down, hung
    host: str = "up"  # up, off, silent
    disk: bool = True
    full: bool = False
    damaged: bool = False
    seen_from_us: bool = True
    refused: bool = False  # what doesn't see us doesn't stay silent: a firewall refuses in its place
    stalled: bool = False  # it runs, and answers nobody for a while
    last_seen_at: datetime = field(default_factory=lambda: datetime(2026, 8, 1, tzinfo=UTC))
    held: set[int] = field(default_factory=set)
    attempts: list[Action] = field(default_factory=list)
    failed_at: datetime | None = None
    repairs: list[datetime] = field(default_factory=list)
    unasked: list[datetime] = field(default_factory=list)  # those of the repairs that no person approved
    insisted: int = 0  # attempts of this incident that a person asked for, knowing what spoke against them

    @property
    def serves(self) -> bool:
        well = self.disk and not (self.full or self.damaged or self.stalled)
        return self.process == "up" and self.host == "up" and well

    @property
    def runs(self) -> bool:
        """The platform's answer: a frozen host runs, one that is off does not."""
        return self.host != "off"

    def answer(self, alive: bool) -> ProbeResult:
        if not self.seen_from_us:
            return ProbeResult.REFUSED if self.refused else ProbeResult.TIMEOUT
        if self.host == "silent":
            return ProbeResult.TIMEOUT
        return ProbeResult.OK if alive and self.host == "up" else ProbeResult.REFUSED

    @property
    def service_answer(self) -> ProbeResult:
        if self.seen_from_us and (self.process == "hung" or self.stalled) and self.host == "up":
            return ProbeResult.TIMEOUT
        return self.answer(self.serves)

"""The table of incidents for tests: it answers like the store, bounds included, from a list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kintsugi.core.fleet import Role


class IncidentTable:
    """Answers the store's questions about incidents. ``incidents``: newest first."""

    def __init__(self, incidents: Sequence[Any] = ()) -> None:
        self.incidents = list(incidents)

    def read_incidents(
        self, limit: int | None = 50, *, node: str | None = None, open_only: bool = False
    ) -> list[Any]:
        found = [
            one
            for one in self.incidents
            if node in (None, one.node) and not (open_only and one.closed_at is not None)
        ]
        return found[:limit]

    def read_current_incidents(self, since: datetime, *, newest: int = 0) -> list[Any]:
        return [
            one
            for place, one in enumerate(self.incidents)
            if place < newest or one.closed_at is None or one.closed_at >= since
        ]

    def read_failures_between(self, start: datetime, end: datetime, *, role: Role) -> list[Any]:
        return [one for one in self.incidents if one.role is role and start < one.first_failed_at < end]

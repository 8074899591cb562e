"""Lines of a service's log; each begins with its time in ISO 8601."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime


def time_of(line: str) -> datetime | None:
    """Return when the line was written, by the node's clock; None for a line without a time, as of a stack trace."""
    try:
        written = datetime.fromisoformat(line.partition(" ")[0])
    except ValueError:
        return None
    return written if written.tzinfo is not None else None


def written_since(lines: Iterable[str], since: datetime) -> list[str]:
    """Return the lines that aren't older than ``since``; a line without a time is left out."""
    return [line for line in lines if (written := time_of(line)) is not None and written >= since]

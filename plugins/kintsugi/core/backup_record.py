"""When this installation was last backed up: a file of the control plane, which the watchdog reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from kintsugi.core.files import write_private
from kintsugi.core.settings import Settings


def record_backup(settings: Settings, made_at: datetime) -> None:
    """Record that a complete backup began at ``made_at`` (UTC)."""
    write_private(_record_file(settings), made_at.isoformat())


def last_backup(settings: Settings) -> datetime | None:
    """Return when the last complete backup began, UTC; None if there was none since the control plane was made."""
    try:
        return datetime.fromisoformat(_record_file(settings).read_text())
    except (FileNotFoundError, ValueError):
        return None


def control_plane_made_at(settings: Settings) -> datetime | None:
    """Return when the control plane's database was made or restored, UTC; None if there is none."""
    try:
        mark = (settings.control / "postgres" / "PG_VERSION").stat()
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(mark.st_mtime, UTC)


def _record_file(settings: Settings) -> Path:
    return settings.control / "last-backup"

"""The progress of the newest run that adds or removes nodes: one JSON document in the database.

Pipeline Health and `make scale-fleet` show it. It decides nothing: what is left to do is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kintsugi.db.flags import Flags

KEY = "scaling"
ENTRIES = 200

Progress = Mapping[str, Any]
"""``run state plan started_by started_at ended_at text``, and ``entries``, each with ``at message``, oldest first.

``state``: running, done, refused or failed. ``text``: how it ended. Times are ISO 8601, UTC.
"""


def read_progress(store: Flags) -> Progress | None:
    """Return the progress of the newest run; None before there is one. Raises StoreUnavailable."""
    stored = store.read_desired(KEY)
    return dict(stored.value) if stored is not None and stored.value else None


def begin_progress(store: Flags, run: str, plan: str, started_by: str) -> None:
    """Begin the progress of this run, unless it has begun."""
    progress = read_progress(store)
    if progress is None or progress["run"] != run:
        store.set_desired(
            KEY,
            {
                "run": run,
                "state": "running",
                "plan": plan,
                "started_by": started_by,
                "started_at": _now(),
                "ended_at": None,
                "text": None,
                "entries": [],
            },
        )


def append_entry(store: Flags, run: str, message: str) -> None:
    """Add a sentence to the progress of this run; does nothing if another run has begun."""
    progress = read_progress(store)
    if progress is not None and progress["run"] == run:
        entries = [*progress["entries"], {"at": _now(), "message": message}]
        store.set_desired(KEY, {**progress, "entries": entries[-ENTRIES:]})


def end_progress(store: Flags, run: str, state: str, text: str) -> None:
    """End the progress of this run; does nothing if another run has begun."""
    progress = read_progress(store)
    if progress is not None and progress["run"] == run:
        store.set_desired(KEY, {**progress, "state": state, "text": text, "ended_at": _now()})


def describe_progress(progress: Progress | None) -> str:
    """Return what is going on, or what is not finished, as a line; empty if there is nothing. Pure."""
    if progress is None or progress["state"] not in ("running", "failed"):
        return ""
    if progress["state"] == "failed":
        return f"Nodes were to be added or removed, and that is not finished: {progress['text']}"
    last = progress["entries"][-1]["message"] if progress["entries"] else "it begins"
    return f"Nodes are being added or removed ({progress['plan']}): {last}."


def _now() -> str:
    return datetime.now(UTC).isoformat()

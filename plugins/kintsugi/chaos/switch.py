"""The switch that stops all chaos: a flag in the store, set by a person and checked by all fault injection.

It is checked right before a fault is injected and while its end is awaited. If the store does not answer, no fault is
injected. An active fault is not undone for that reason alone, because Postgres may be the victim.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kintsugi.core.errors import Refused

if TYPE_CHECKING:
    from kintsugi.db.store import Store

CHAOS = "chaos"


class ChaosStopped(Refused):
    """A person has stopped all chaos."""


def stop(store: Store, *, user: str, reason: str) -> None:
    """Stop all chaos until `resume`; idempotent."""
    value = {"stopped": True, "user": user, "reason": reason, "at": datetime.now(UTC).isoformat()}
    store.set_desired(CHAOS, value)


def resume(store: Store) -> None:
    """Allow chaos again; does nothing when it is allowed."""
    store.set_desired(CHAOS, {"stopped": False})


def stopped(store: Store) -> str | None:
    """Who stopped chaos and why, as a sentence; None while it is allowed."""
    found = store.desired(CHAOS)
    value = found.value if found is not None and isinstance(found.value, dict) else {}
    if not value.get("stopped"):
        return None
    return (
        f"Chaos is stopped by {value.get('user')} since {value.get('at')}: {value.get('reason')}. "
        "`make chaos-resume` allows it again."
    )


def check(store: Store) -> None:
    """Raise ChaosStopped while a person has stopped chaos."""
    if (why := stopped(store)) is not None:
        raise ChaosStopped(why)

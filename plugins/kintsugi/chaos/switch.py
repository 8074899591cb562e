"""The switch that stops all chaos: a flag in the store, set by a person and checked by all fault injection.

It is checked right before a fault is injected and while its end is awaited. If the store does not answer, no fault is
injected. An active fault is not undone for that reason alone, because Postgres may be the victim.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kintsugi.core.errors import GuardRefused

if TYPE_CHECKING:
    from kintsugi.db.store import Store

CHAOS = "chaos"


class ChaosStopped(GuardRefused):
    """A person has stopped all chaos."""


def stop_chaos(store: Store, *, user: str, reason: str) -> None:
    """Stop all chaos until `resume_chaos`; idempotent."""
    value = {"stopped": True, "user": user, "reason": reason, "at": datetime.now(UTC).isoformat()}
    store.set_desired(CHAOS, value)


def resume_chaos(store: Store, *, user: str) -> None:
    """Allow chaos again, in the name of ``user``; idempotent."""
    store.set_desired(CHAOS, {"stopped": False, "user": user, "at": datetime.now(UTC).isoformat()})


def stop_reason(store: Store) -> str | None:
    """Who stopped chaos and why, as a sentence; None while it is allowed."""
    setting = store.read_desired(CHAOS)
    value = setting.value if setting is not None and isinstance(setting.value, dict) else {}
    if not value.get("stopped"):
        return None
    return (
        f"Chaos is stopped by {value.get('user')} since {value.get('at')}: {value.get('reason')}. "
        "`make chaos-resume` allows it again."
    )


def check_not_stopped(store: Store) -> None:
    """Raise ChaosStopped while a person has stopped chaos."""
    if (why := stop_reason(store)) is not None:
        raise ChaosStopped(why)

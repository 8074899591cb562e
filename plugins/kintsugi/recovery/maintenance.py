"""A person's word that a node isn't to be touched, set and taken back."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from kintsugi.db.store import Store

log = logging.getLogger(__name__)


def set_healing(store: Store, *, scope: str, healing: str, minutes: int, reason: str, user: str) -> str:
    """Pause or resume the healing of ``scope`` (a node, ``*``: the fleet); returns what was done, as a sentence.

    ``minutes``: how long a pause lasts, 0 until it is resumed. Doing it twice does it once. Raises StoreUnavailable.
    """
    if healing == "resume":
        store.clear_maintenance(scope)
        said = f"healing of {scope} is on (by {user})"
    else:
        until = datetime.now(UTC) + timedelta(minutes=minutes) if minutes else None
        store.set_maintenance(scope, reason=reason, user=user, until=until)
        said = f"healing of {scope} is paused {f'for {minutes} minutes' if minutes else 'until resumed'}: {reason}"
    log.info(said)
    return said

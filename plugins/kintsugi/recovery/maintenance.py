"""Set and clear maintenance: while it is set, the recovery does not touch the node."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from kintsugi.db.store import Store

log = logging.getLogger(__name__)


def set_healing(store: Store, *, scope: str, healing: str, minutes: int, reason: str, user: str) -> str:
    """Pause or resume the recovery of ``scope`` (a node, ``*``: the fleet); returns what was done, as a sentence.

    ``minutes``: how long the pause lasts; 0 means until it is resumed. Idempotent. Raises StoreUnavailable.
    """
    if healing == "resume":
        store.clear_maintenance(scope)
        sentence = f"recovery of {scope} is on (resumed by {user})"
    else:
        until = datetime.now(UTC) + timedelta(minutes=minutes) if minutes else None
        store.set_maintenance(scope, reason=reason, user=user, until=until)
        sentence = f"recovery of {scope} is paused {f'for {minutes} minutes' if minutes else 'until resumed'}: {reason}"
    log.info(sentence)
    return sentence

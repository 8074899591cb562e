"""How long a caller waits for a database that answers late, and connecting within that time.

On a loaded machine Postgres is slow to accept a connection. After a crash its supervisor restarts it within seconds. A
recovery or a command must survive both. A web page or a probe should report quickly that the database doesn't answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """``late_s``: how long to retry while the database doesn't answer. ``away_s``: while it refuses or restarts.

    Zero means a single attempt.
    """

    late_s: float = 0.0
    away_s: float = 0.0

    def waits(self, *, late: bool, waited_s: float) -> bool:
        """Whether to try again after ``waited_s`` seconds. ``late``: the database was silent and did not refuse."""
        return waited_s < (self.late_s if late else self.away_s)


NONE = Patience()
LOOK = Patience(late_s=15.0)
"""For a command that only reads, such as `make status`: it reports at once that the database is down."""
TASK = Patience(late_s=60.0, away_s=20.0)
"""For a step of a recovery, whose task also has retries."""
COMMAND = Patience(late_s=180.0, away_s=30.0)
"""For a long command, such as `make demo`: it must not fail because of a busy minute."""

CONNECT_S = 3.0
LONGEST_CONNECT_S = 15.0


def connect_timeout_s(attempt: int, patience: Patience) -> int:
    """Return the time-out in seconds of the nth attempt (from 1): 3, doubled each time up to 15 if it is retried."""
    if patience.late_s <= 0:
        return int(CONNECT_S)
    return int(min(CONNECT_S * 2 ** min(attempt - 1, 8), LONGEST_CONNECT_S))


@dataclass(slots=True)
class _Process:
    """The defaults of this process."""

    patience: Patience = NONE
    say: Callable[[str], object] = log.warning


PROCESS = _Process()


def be_patient(patience: Patience, say: Callable[[str], object] = log.warning) -> None:
    """Let every database connection of this process wait; ``say`` gets a sentence when a wait begins."""
    PROCESS.patience, PROCESS.say = patience, say


def open_connection(dsn: str, patience: Patience | None = None, **options: Any) -> Connection[Any]:
    """Connect to Postgres; retried within ``patience`` (None: that of the process). ``options``: psycopg's.

    Raises the psycopg.OperationalError of the last attempt.
    """
    import psycopg
    import tenacity

    held = PROCESS.patience if patience is None else patience

    def goes_on(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, psycopg.OperationalError) or "authentication failed" in str(error):
            return False
        late = isinstance(error, psycopg.errors.ConnectionTimeout)
        return held.waits(late=late, waited_s=state.seconds_since_start or 0.0)

    def report_wait(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            PROCESS.say(
                f"Postgres doesn't answer yet; waiting for it up to {held.late_s:.0f} s "
                f"({held.away_s:.0f} s while it refuses connections)"
            )

    for attempt in tenacity.Retrying(
        retry=goes_on,
        wait=tenacity.wait_exponential_jitter(initial=0.2, max=2.0, jitter=0.2),
        before_sleep=report_wait,
        reraise=True,
    ):
        with attempt:
            timeout_s = connect_timeout_s(attempt.retry_state.attempt_number, held)
            return psycopg.connect(dsn, connect_timeout=timeout_s, **options)
    raise AssertionError("tenacity raises the last error itself")

"""The sessions of the exchange around today: the days for which files are expected.

US options trade on the sessions of the New York Stock Exchange. Its calendar comes from ``exchange_calendars``, whose
import takes seconds and a hundred megabytes. So it runs in a process of its own, at most once a day::

    python -m kintsugi.pipeline.ingest.exchange_sessions 2026-11-28
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date, datetime, timedelta

from kintsugi.core.errors import KintsugiError

CALENDAR = "XNYS"
BEFORE, AFTER = timedelta(days=45), timedelta(days=14)
TIMEOUT_S = 240.0


def sessions_around(day: date) -> dict[date, datetime]:
    """Return the sessions from 45 days before ``day`` to 14 after it: by day, the time of their close (UTC).

    Raises KintsugiError when the calendar can't be read.
    """
    command = [sys.executable, "-m", "kintsugi.pipeline.ingest.exchange_sessions", day.isoformat()]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
        )
        return {
            date.fromisoformat(day): datetime.fromisoformat(close)
            for day, close in json.loads(process.stdout).items()
        }
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise KintsugiError(
            f"the calendar {CALENDAR} can't be read: {lines[-1] if lines else error}; "
            "check that exchange_calendars is installed. Until then missing files are not reported"
        ) from error


def main(arguments: list[str]) -> None:
    """Print the sessions as JSON: ``{day: close}``."""
    import exchange_calendars

    os.nice(10)
    day = date.fromisoformat(arguments[0])
    first, last = day - BEFORE, day + AFTER
    calendar = exchange_calendars.get_calendar(CALENDAR, start=first.isoformat(), end=last.isoformat())
    print(
        json.dumps(
            {f"{day:%Y-%m-%d}": close.isoformat() for day, close in calendar.schedule["close"].items()}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])

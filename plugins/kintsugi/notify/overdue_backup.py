"""When the age of the last backup pages a person. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from kintsugi.notify.paging_rules import Page

OVERDUE_BACKUP = timedelta(days=2)
"""Two nights failed, with their retries."""


def overdue_backup_page(last: datetime | None, made_at: datetime, now: datetime) -> Page | None:
    """Return the page that is due at ``now``, the same for a day; None while the last backup is young enough.

    ``last``: when the last complete backup began; None: there was none since the control plane was made or restored at
    ``made_at``. All times are UTC.
    """
    since = max(last, made_at) if last is not None else made_at
    age = now - since
    if age <= OVERDUE_BACKUP:
        return None
    what = f"The last backup is of {last:%Y-%m-%d %H:%M} UTC." if last is not None else "There is no backup."
    return Page(
        f"page/backup/{since:%Y%m%dT%H%M}/{age.days}",
        f"The control plane was not backed up for {age.days} days",
        f"{what} If this machine is lost, nothing newer can be restored. Read the log of back_up_control_plane in "
        "Airflow, or run `make backup`, which says what is wrong.",
    )

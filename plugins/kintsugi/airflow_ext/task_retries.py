"""When a task of a roll-out, or of a change of the fleet's size, runs again: after a kill, or a lost database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from kintsugi.core.errors import KintsugiError
from kintsugi.db.store import StoreUnavailable

RETRY: dict[str, Any] = {"retries": 3, "retry_delay": timedelta(seconds=5)}


@contextmanager
def mark_final() -> Iterator[None]:
    """Fail without a retry for an error of the project; only a lost database is worth a retry."""
    try:
        yield
    except StoreUnavailable:
        raise
    except KintsugiError as error:
        raise AirflowFailException(str(error)) from error

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.pipeline.ingest.exchange_sessions import sessions_around


def test_holidays_and_early_closes_of_the_exchange_are_known() -> None:
    found = sessions_around(date(2024, 11, 27))
    assert date(2024, 11, 28) not in found, "Thanksgiving"
    assert date(2024, 11, 30) not in found, "a Saturday"
    assert found[date(2024, 11, 29)] == datetime(2024, 11, 29, 18, tzinfo=UTC), "an early close"
    assert found[date(2024, 11, 27)] == datetime(2024, 11, 27, 21, tzinfo=UTC)
    assert min(found) < date(2024, 10, 16)
    assert max(found) > date(2024, 12, 6)


def test_a_calendar_that_cannot_be_read_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(
            1, [sys.executable], "", "ModuleNotFoundError: No module named 'x'\n"
        )

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(KintsugiError, match="No module named"):
        sessions_around(date(2024, 11, 27))

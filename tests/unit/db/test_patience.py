"""A store that answers late is waited for, within bounds, and the caller says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import psycopg
import pytest

from kintsugi.db.patience import (
    COMMAND,
    LONGEST_CONNECT_S,
    NONE,
    PROCESS,
    TASK,
    Patience,
    be_patient,
    connect_timeout_s,
)
from kintsugi.db.store import Store, StoreUnavailable

LATE = psycopg.errors.ConnectionTimeout("connection timeout expired")
AWAY = psycopg.OperationalError("connection refused")
WRONG = psycopg.OperationalError("password authentication failed for user kintsugi")
QUICK = Patience(late_s=30.0, away_s=30.0)


class Postgres:
    """Stands in for psycopg.connect: raises what it is given, one each call, then answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failures: Exception) -> None:
        self.failures, self.timeouts = list(failures), list[int]()
        monkeypatch.setattr(psycopg, "connect", self.connect)

    def connect(self, _dsn: str, *, connect_timeout: int, **_: object) -> Postgres:
        self.timeouts.append(connect_timeout)
        if self.failures:
            raise self.failures.pop(0)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    yield
    be_patient(NONE)


def test_a_late_store_is_tried_again_with_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres, said = Postgres(monkeypatch, LATE, AWAY, LATE), list[str]()
    be_patient(NONE, said.append)
    with Store("", patience=QUICK).transaction() as connection:
        found: object = connection
    assert found is postgres
    assert postgres.timeouts == [3, 6, 12, 15]
    assert len(said) == 1, "that it waits is said once"


@pytest.mark.parametrize(
    ("patience", "failure"),
    [
        (NONE, LATE),
        (NONE, AWAY),
        (Patience(late_s=30.0), AWAY),  # a command that looks doesn't wait for what is down
        (Patience(away_s=30.0), LATE),
        (QUICK, WRONG),  # waiting won't help
    ],
)
def test_who_has_no_patience_for_it_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, patience: Patience, failure: Exception
) -> None:
    postgres = Postgres(monkeypatch, failure, failure)
    with pytest.raises(StoreUnavailable), Store("", patience=patience).transaction():
        pass
    assert len(postgres.timeouts) == 1


def test_a_process_says_how_patient_its_stores_are(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(QUICK, lambda said: None)
    Postgres(monkeypatch, LATE)
    with Store("").transaction():
        pass
    Postgres(monkeypatch, LATE)
    with pytest.raises(StoreUnavailable), Store("", patience=NONE).transaction():
        pass


@pytest.mark.parametrize("patience", [TASK, COMMAND])
def test_every_wait_is_bounded(patience: Patience) -> None:
    assert PROCESS.patience is NONE
    assert patience.waits(late=True, waited_s=patience.late_s - 1)
    assert not patience.waits(late=True, waited_s=patience.late_s)
    assert not patience.waits(late=False, waited_s=patience.away_s)
    assert [connect_timeout_s(n, patience) for n in (1, 2, 9, 99)] == [3, 6, *[LONGEST_CONNECT_S] * 2]
    assert connect_timeout_s(9, NONE) == 3

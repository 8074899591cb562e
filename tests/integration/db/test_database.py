"""The tables are made once, and a database that goes away is said, waited for, or asked again."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from kintsugi.db.migrations import MIGRATIONS
from kintsugi.db.patience import Patience
from kintsugi.db.store import Store, StoreUnavailable
from tests.integration.db.store_steps import at_once, opened


def test_migrating_at_once_makes_the_tables_once(fresh_store: Store) -> None:
    results = at_once(*[fresh_store.migrate] * 6)
    assert results == [None] * 6
    fresh_store.migrate()
    with fresh_store.transaction() as connection:
        applied = connection.execute("SELECT version FROM kintsugi_schema ORDER BY version").fetchall()
    assert [row["version"] for row in applied] == list(range(1, len(MIGRATIONS) + 1))


def test_a_dead_database_is_said_in_one_line_and_quickly(postgres: Any, store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    postgres.stop(signal.SIGQUIT)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        store.check_lease("kafka-1", lease.token)
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    postgres.start()
    store.check_lease("kafka-1", lease.token)  # nothing stale is kept, and the lease outlived the crash


def test_a_patient_store_waits_for_a_database_that_is_started_again(postgres: Any, store: Store) -> None:
    patient = Store(store._dsn, patience=Patience(late_s=60.0, away_s=60.0))
    lease = patient.acquire_lease("kafka-1", "run-1", 60)
    postgres.stop(signal.SIGQUIT)
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(patient.check_lease, "kafka-1", lease.token)
        postgres.start()  # in this thread: the server dies with the one that starts it
        checked.result(60)


def test_what_was_asked_when_the_connection_broke_is_asked_again(store: Store) -> None:
    patient = Store(store._dsn, patience=Patience(late_s=60.0, away_s=60.0))
    incident, _ = opened(store)
    broken: list[int] = []

    class Breaks(Store):
        @contextmanager
        def transaction(self) -> Any:
            with super().transaction() as connection:
                if not broken:
                    broken.append(connection.info.backend_pid)
                    with store.transaction() as other:
                        other.execute("SELECT pg_terminate_backend(%s)", (broken[0],))
                yield connection

    breaks = Breaks(patient._dsn, patience=patient.patience)
    assert breaks.read_incident(incident.id).id == incident.id
    broken.clear()
    with pytest.raises(StoreUnavailable):
        Breaks(store._dsn).read_incident(incident.id)


def test_a_password_is_never_part_of_an_error() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Store("postgresql://kintsugi:hush-hush@127.34.0.1:1/kintsugi").migrate()
    assert "hush" not in str(caught.value)

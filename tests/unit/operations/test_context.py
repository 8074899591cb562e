"""A step holds its node's lease for as long as it lives, and its journal tells how it ended."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from kintsugi.core.errors import IncidentClosed, StaleTokenError
from kintsugi.core.fleet import load_fleet
from kintsugi.core.settings import load_settings
from kintsugi.db.leases import Lease
from kintsugi.db.store import StoreUnavailable
from kintsugi.operations import context as context_module
from kintsugi.operations.context import Context, RecoveryRef

KAFKA_2 = RecoveryRef("kafka-2-20260801T021504Z-9f3c", "kafka-2", "watch_kafka-2/run-7")


class Book:
    """A store that keeps what a step writes; ``renewals`` says how the first renewals end; later ones succeed."""

    def __init__(self, *renewals: Exception | None) -> None:
        self.renewals = list(renewals)
        self.renewed = 0
        self.third = threading.Event()
        self.lines: list[tuple[str, Any]] = []

    def acquire_lease(
        self, node: str, holder: str, ttl_s: float, *, fresh_token: bool, incident: str
    ) -> Lease:
        return Lease(node, holder, 7, datetime.now(UTC))

    def renew_lease(self, node: str, token: int, ttl_s: float) -> None:
        assert (node, token, ttl_s) == ("kafka-2", 7, context_module.LEASE_S)
        self.renewed += 1
        if self.renewed >= 3:
            self.third.set()
        failure = self.renewals.pop(0) if self.renewals else None
        if failure is not None:
            raise failure

    def append_entry(self, incident: str, token: int, step: str, message: str, data: dict[str, Any]) -> None:
        self.lines.append((message, data.get("mark")))


def context(book: Book) -> Context:
    return Context(load_settings(), load_fleet(), book)  # type: ignore[arg-type]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "RENEW_S", 0.01)


@pytest.mark.usefixtures("often")
def test_the_lease_is_renewed_while_the_step_lives_also_after_the_store_was_away() -> None:
    book = Book(StoreUnavailable("connection refused"))
    with context(book).step(KAFKA_2, "configure"):
        assert book.third.wait(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "lease of kafka-2"]


@pytest.mark.usefixtures("often")
def test_a_step_that_was_fenced_off_renews_nothing_more() -> None:
    book = Book(StaleTokenError("token 7 is no longer the newest"))
    with context(book).step(KAFKA_2, "configure"):
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "lease of kafka-2"]
        thread.join(20)
        assert not thread.is_alive()
    assert book.renewed == 1


class TimeIsUp(BaseException):
    """As Airflow's time-out: none of Exception's."""


@pytest.mark.parametrize("end", [ValueError("no such package"), TimeIsUp("AirflowTaskTimeout"), TimeIsUp()])
def test_the_journal_tells_how_a_step_ended(end: BaseException) -> None:
    book = Book()
    with pytest.raises(type(end)), context(book).step(KAFKA_2, "rejoin"):
        raise end
    assert book.lines == [("started", "start"), (f"failed: {str(end) or 'TimeIsUp'}", "failed")]


def test_a_step_proves_before_each_act_that_its_incident_is_open() -> None:
    class Closed(Book):
        def check_lease(self, node: str, token: int, *, incident: str | None) -> None:
            assert (node, token, incident) == ("kafka-2", 7, KAFKA_2.incident)
            raise IncidentClosed("it is closed")

    with pytest.raises(IncidentClosed), context(Closed()).step(KAFKA_2, "provision") as step:
        step.check()

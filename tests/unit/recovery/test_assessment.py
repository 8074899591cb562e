"""Whom the journal of a recovery names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import LeaseHeld
from kintsugi.core.fleet import load_fleet
from kintsugi.core.observation import ProbeResult
from kintsugi.recovery import assessment

FINDING = {
    "first_failed_at": "2026-11-28T12:00:00+00:00",
    "detected_at": "2026-11-28T12:00:03+00:00",
    "evidence": ["refused"],
    "symptom": "down",
}


class Doors:
    """A context whose store opens any incident; ``said`` is its journal."""

    def __init__(self) -> None:
        self.fleet = load_fleet()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.store = SimpleNamespace(
            acquire_lease=lambda *_, **__: SimpleNamespace(token=1),
            last_fault=lambda *_, **__: None,
            open_incident=lambda *_, **__: SimpleNamespace(id="i-1"),
        )

    @contextmanager
    def step(self, *_: Any) -> Iterator[Any]:
        yield SimpleNamespace(note=lambda message, **data: self.said.append((message, data)))


def confirm(context: Doors, **changes: Any) -> Any:
    arguments = {"node": "kafka-1", "holder": "recover_node/manual", "finding": None, "requested": "auto"}
    return assessment.confirm_finding(context, **arguments | {"dry_run": False} | changes)  # type: ignore[arg-type]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Doors:
    """A node whose lease is given back 10 s from now; nobody sleeps."""
    context, clock = Doors(), [100.0]

    def acquire(*_: Any, **__: Any) -> Any:
        if clock[0] < 110:
            raise LeaseHeld("held by watch_kafka-1/run-1")
        return SimpleNamespace(token=1)

    context.store.acquire_lease = acquire
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(assessment, "observe_node", lambda *_: SimpleNamespace(service=ProbeResult.OK))
    monkeypatch.setattr(assessment, "replace", lambda seen, **_: seen)
    monkeypatch.setattr(assessment, "write_failure_mode", lambda *_, **__: None)
    return context


def test_a_lease_that_is_given_back_in_time_is_waited_for(held: Doors) -> None:
    assert confirm(held, lease_wait_s=60).incident == "i-1"


@pytest.mark.parametrize("wait", [{"lease_wait_s": 5}, {}])
def test_the_wait_for_a_lease_is_bounded(held: Doors, wait: dict[str, float]) -> None:
    with pytest.raises(LeaseHeld):
        confirm(held, **wait)


@pytest.mark.parametrize(
    ("finding", "by", "named"),
    [
        (None, "olga", [{"started_by": "olga"}]),
        (None, "ben (command line)", [{"started_by": "ben (command line)"}]),
        (None, None, []),
        (FINDING, "olga", [{"finding": True}]),
    ],
)
def test_the_journal_names_who_started_a_recovery_by_hand(
    finding: dict[str, Any] | None,
    by: str | None,
    named: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = Doors()
    seen = SimpleNamespace(service=ProbeResult.OK)
    monkeypatch.setattr(assessment, "observe_node", lambda *_: seen)
    monkeypatch.setattr(assessment, "replace", lambda seen, **_: seen)
    monkeypatch.setattr(assessment, "write_failure_mode", lambda *_, **__: None)
    assessment.confirm_finding(
        context,  # type: ignore[arg-type]
        node="kafka-1",
        holder="recover_node/manual",
        finding=finding,
        requested="auto",
        dry_run=True,
        started_by=by,
    )
    assert [data for _, data in context.said] == named
    if finding is None and by:
        assert by in context.said[0][0]

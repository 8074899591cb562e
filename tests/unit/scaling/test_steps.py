"""The steps of a change of the fleet, without a database; tests/integration/test_scaling_steps.py has all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, LeaseHeld, StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.membership import Membership, read_membership, write_membership
from kintsugi.db.leases import Lease
from kintsugi.operations import readiness
from kintsugi.operations.context import Context
from kintsugi.scaling import clusters, permission, provisioning, steps
from kintsugi.scaling.state import read_plan
from tests.installations import installation


@contextmanager
def nothing_held(*_: Any) -> Iterator[None]:
    yield


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order; the guards permit everything."""
    acts: list[str] = []
    monkeypatch.setattr(steps, "hold_fleet", nothing_held)
    monkeypatch.setattr(steps, "note", lambda *_: None)
    monkeypatch.setattr(steps, "begin_progress", lambda *_: None)
    monkeypatch.setattr(steps, "clear_flags", lambda *_: None)
    monkeypatch.setattr(steps, "start_watches", lambda _: acts.append("watch"))
    monkeypatch.setattr(provisioning, "release_of_declared", lambda *_: None)
    monkeypatch.setattr(provisioning, "write_files", lambda *_: acts.append("write"))
    monkeypatch.setattr(clusters, "clean_up", lambda _, node: acts.append(f"clean_up {node.name}"))

    def start(_: Context, node: Node) -> bool:
        acts.append(f"start {node.name}")
        return True

    monkeypatch.setattr(clusters, "start_service", start)
    monkeypatch.setattr(
        readiness, "wait_until_ready", lambda _, __, node, ___: acts.append(f"ready {node.name}")
    )
    monkeypatch.setattr(permission, "await_permission", lambda context, _: read_plan(context))
    return acts


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = installation(tmp_path, "127.34")
    store: Any = None
    return Context(settings, settings.fleet, store)


def record(context: Context, **left_to_do: Any) -> None:
    nodes = context.settings.declared_fleet.nodes
    write_membership(context.settings.control, Membership(nodes, **left_to_do))


def test_a_spread_that_stops_half_way_is_still_to_do(
    context: Context, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StepFailed("kafka-1 does not answer")

    record(context)
    file = context.settings.fleet_file
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "name: kafka-3" not in line))
    monkeypatch.setattr(clusters, "spread_partitions", fail)
    with pytest.raises(StepFailed):
        steps.spread_partitions(context, "run", 1)
    file.write_text("".join(lines))
    assert read_plan(context).spread, "also if the edit is reverted"
    monkeypatch.setattr(clusters, "spread_partitions", lambda *_: "spread")
    assert steps.spread_partitions(context, "run", 1) == "spread"
    assert not read_plan(context)


def test_a_node_whose_removal_is_taken_back_is_started_before_it_is_watched(
    context: Context, done: list[str]
) -> None:
    record(context, unwatched=("kafka-3",))
    steps.begin_scaling(context, "run", "olga")
    assert done == ["start kafka-3", "ready kafka-3", "watch"]


def test_nothing_is_cleaned_up_or_written_while_a_guard_refuses(
    context: Context, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise GuardRefused("an incident is open")

    monkeypatch.setattr(permission, "await_permission", refuse)
    record(context, cleanup=("cassandra-1",), settle=True)
    with pytest.raises(GuardRefused):
        steps.clean_up(context, "run")
    with pytest.raises(GuardRefused):
        steps.settle(context, "run")
    assert done == []


def test_every_clean_up_is_permitted_by_itself(
    context: Context, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True, False])

    def permit_once(context: Any, _: str) -> Any:
        if not next(answers):
            raise GuardRefused("an incident is open")
        return read_plan(context)

    monkeypatch.setattr(permission, "await_permission", permit_once)
    record(context, cleanup=("cassandra-1", "cassandra-2"))
    with pytest.raises(GuardRefused):
        steps.clean_up(context, "run")
    assert done == ["clean_up cassandra-1"]
    left = read_membership(context.settings.control)
    assert left is not None
    assert left.cleanup == ("cassandra-2",)


class Leases:
    """A store that has only leases."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.of_others: str | None = None

    @contextmanager
    def hold_lease(self, node: str, holder: str, _: float) -> Iterator[Lease]:
        if node == self.of_others:
            raise LeaseHeld(f"a recovery holds {node}")
        self.held.append(node)
        try:
            yield Lease(node, holder, 1, datetime.now(UTC))
        finally:
            self.held.remove(node)


def test_files_are_written_only_while_no_other_run_changes_a_node(
    context: Context, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leases: Any = Leases()
    context = replace(context, store=leases)
    seen: list[str] = []

    def write(*_: Any) -> None:
        seen.extend(leases.held)
        raise StepFailed("no space")

    monkeypatch.setattr(provisioning, "release_of_declared", lambda *_: SimpleNamespace(short="a"))
    monkeypatch.setattr(provisioning, "write_files", write)
    record(context, settle=True)
    with pytest.raises(StepFailed):
        steps.settle(context, "run")
    assert seen == list(context.fleet.nodes)
    leases.of_others = seen.pop()
    seen.clear()
    with pytest.raises(LeaseHeld):
        steps.settle(context, "run")
    assert seen == leases.held == []

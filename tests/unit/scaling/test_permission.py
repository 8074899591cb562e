"""What refuses a change of the fleet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Role
from kintsugi.core.membership import Membership, write_membership
from kintsugi.core.settings import Settings
from kintsugi.operations.context import Context
from kintsugi.releases.steady_state import Steady
from kintsugi.scaling import permission
from kintsugi.scaling.permission import format_refusal, replication_factors
from kintsugi.scaling.plan import ScalingPlan
from tests.installations import installation


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"keyspace_name": "trades", "replication": {"class": "N", "datacenter1": "3"}}], [3]),
        ([{"keyspace_name": "trades", "replication": {"class": "N", "datacenter1": "5/1"}}], [5]),
        ([{"keyspace_name": "system_auth", "replication": {"class": "N", "datacenter1": "3"}}], [3]),
        ([{"keyspace_name": "system_traces", "replication": {"class": "S", "replication_factor": "2"}}], []),
        ([{"keyspace_name": "system", "replication": {"class": "L"}}], []),
    ],
)
def test_our_keyspaces_and_the_roles_count(rows: list[Any], expected: list[int]) -> None:
    assert replication_factors(rows) == expected


def test_a_refusal_names_every_reason() -> None:
    text = format_refusal(["kafka-1: it is away.", "An incident is open."])
    assert "kafka-1" in text
    assert "incident" in text


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fleet in which nothing passing is against a change, and every replica has three copies."""
    settings = installation(tmp_path, "127.34")
    write_membership(settings.control, Membership(settings.declared_fleet.nodes))

    async def copies(_: Any) -> dict[Role, int | None]:
        return {Role.KAFKA: 3, Role.CASSANDRA: 3}

    monkeypatch.setattr(permission, "replication_of", copies)
    monkeypatch.setattr(permission, "space_reasons", lambda *_: [])
    monkeypatch.setattr(permission, "passing_reasons", lambda *_: [])
    monkeypatch.setattr(permission, "POLL_S", 0.0)
    monkeypatch.setattr(permission, "WAIT_S", 0.0)
    return SimpleNamespace(settings=settings, fleet=settings.fleet)


def forbid_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission, "WAIT_S", 1e9)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waited"))


def edit(settings: Settings, before: str, after: str) -> None:
    text = settings.fleet_file.read_text()
    assert before in text
    settings.fleet_file.write_text(text.replace(before, after))


def test_a_second_edit_that_moves_a_node_is_refused_at_once(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_waits(monkeypatch)
    edit(context.settings, "127.34.1.1}", "127.34.1.9}")
    with pytest.raises(GuardRefused, match="kafka-1"):
        permission.await_permission(context, "run")


def test_a_second_edit_that_leaves_too_few_nodes_is_refused_at_once(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_waits(monkeypatch)
    edit(context.settings, "  - {name: kafka-3, role: kafka, address: 127.34.1.3}\n", "")
    with pytest.raises(GuardRefused, match="2 nodes of kafka"):
        permission.await_permission(context, "run")


def test_a_second_edit_without_space_for_it_is_refused(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission, "space_reasons", lambda *_: ["kafka-1: no space."])
    edit(context.settings, "nodes:\n", "nodes:\n  - {name: kafka-4, role: kafka, address: 127.34.1.4}\n")
    with pytest.raises(GuardRefused, match="no space"):
        permission.await_permission(context, "run")
    monkeypatch.setattr(permission, "space_reasons", lambda *_: [])
    assert [node.name for node in permission.await_permission(context, "run").add] == ["kafka-4"]


def test_what_passes_is_waited_for(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([["kafka-2: it is away."], ["kafka-2: it is away."], []])
    monkeypatch.setattr(permission, "passing_reasons", lambda *_: next(answers))
    monkeypatch.setattr(permission, "WAIT_S", 1e9)
    permission.await_permission(context, "run")
    assert list(answers) == []


@pytest.mark.parametrize(("status", "refused"), [("LEFT", True), ("NORMAL", False), (None, False)])
def test_a_cassandra_node_that_has_left_the_ring_does_not_stay_after_all(
    context: Any, monkeypatch: pytest.MonkeyPatch, status: str | None, refused: bool
) -> None:
    async def ring_status(*_: Any) -> str | None:
        return status

    monkeypatch.setattr(permission, "ring_status", ring_status)
    members = Membership(context.settings.declared_fleet.nodes)
    write_membership(context.settings.control, members.without_watch("cassandra-3"))
    reasons = permission.refusal_reasons(context, "run")
    assert bool(reasons) is refused
    assert all("Delete its line again" in reason for reason in reasons)


def test_a_node_whose_removal_was_taken_back_need_not_be_ready(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # of `passing_reasons`
    asked: list[str] = []

    def observe(seen: Any) -> Steady:
        asked.extend(seen.fleet.nodes)
        return Steady()

    monkeypatch.setattr(permission, "observe_fleet", observe)
    monkeypatch.setattr(permission, "fault_reasons", lambda _: [])
    monkeypatch.setattr(permission, "_watch_reasons", lambda *_: [])
    store = SimpleNamespace(read_lease=lambda _: None)
    stopped = Context(settings=context.settings, fleet=context.fleet, store=store)  # type: ignore[arg-type]
    permission.passing_reasons(stopped, "run", ScalingPlan(unwatched=("kafka-3",)))
    assert set(asked) == context.fleet.nodes.keys() - {"kafka-3"}

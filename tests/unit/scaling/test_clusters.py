"""What the clusters say of a node that comes or goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.infra import ssh
from kintsugi.scaling import clusters
from kintsugi.scaling.clusters import common_status, operation_mode, worker_gap

HERE = "127.20.2.4"


def row(status: str, address: str = HERE) -> dict[str, Any]:
    return {"address": address, "status_with_port": f"{status},-123"}


OTHER = row("NORMAL", "127.20.2.1")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[OTHER, row("NORMAL")], [row("NORMAL")]], "NORMAL"),
        ([[OTHER, row("LEAVING")], [row("LEAVING")]], "LEAVING"),
        ([[OTHER, row("LEFT")], [OTHER]], "LEFT"),
        ([[OTHER], [OTHER]], "LEFT"),
        ([[row("LEFT")], [row("LEAVING")]], None),
        ([[row("LEFT")], None], None),
        ([], None),
    ],
)
def test_a_node_has_left_the_ring_when_every_peer_says_so(answers: list[Any], expected: str | None) -> None:
    assert common_status(answers, HERE) == expected


def worker(host: str, state: str = "ALIVE") -> dict[str, str]:
    return {"host": host, "state": state}


@pytest.mark.parametrize(
    ("workers", "waits"),
    [
        ([worker("a"), worker("b")], False),
        ([worker("a"), worker("b"), worker("gone", "DEAD")], False),
        ([worker("a"), worker("b"), worker("gone")], True),
        ([worker("a"), worker("b", "DEAD")], True),
    ],
)
def test_a_worker_is_released_when_the_others_are_alive_without_it(
    workers: list[dict[str, str]], waits: bool
) -> None:
    assert bool(worker_gap({"workers": workers}, "gone", ["a", "b"])) is waits


NODE = Node("cassandra-4", Role.CASSANDRA, HERE, 2222)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to the servers."""
    acts: list[str] = []
    monkeypatch.setattr(clusters, "_run_nodetool", lambda _, __, command, *___, **____: acts.append(command))

    def stop(*_: Any) -> bool:
        acts.append("stop")
        return True

    monkeypatch.setattr(clusters, "stop_service", stop)
    clock = iter(range(10_000))
    monkeypatch.setattr(
        clusters, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: float(next(clock)))
    )
    return acts


def leave(monkeypatch: pytest.MonkeyPatch, *statuses: str | None) -> None:
    answers = iter(statuses)

    async def ring_status(*_: Any) -> str | None:
        return next(answers)

    monkeypatch.setattr(clusters, "ring_status", ring_status)
    context: Any = SimpleNamespace(fleet=None)
    clusters.decommission(context, NODE, lambda _: None)


def test_a_decommission_that_failed_goes_on(monkeypatch: pytest.MonkeyPatch, done: list[str]) -> None:
    leave(monkeypatch, "LEAVING", "LEFT")
    assert done == ["decommission", "stop"]


def test_a_decommission_is_not_asked_for_at_every_look(
    monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    leave(monkeypatch, "NORMAL", "LEAVING", None, "LEAVING", "LEFT")
    assert done == ["decommission", "stop"]
    done.clear()
    looks = int(clusters.ASK_AGAIN_S)
    leave(monkeypatch, *["LEAVING"] * looks, "LEFT")
    assert 1 < done.count("decommission") < looks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mode: JOINING_FAILED\nNot sending any streams.\n", "JOINING_FAILED"),
        ("nodetool: Failed to connect to '127.0.0.1:20000'", None),
        ("", None),
    ],
)
def test_the_mode_is_what_the_node_says(text: str, expected: str | None) -> None:
    assert operation_mode(text) == expected


@pytest.mark.parametrize(("mode", "fails"), [("JOINING_FAILED", True), ("JOINING", False), ("NORMAL", False)])
def test_only_a_join_that_failed_is_stopped_and_given_up(
    monkeypatch: pytest.MonkeyPatch, done: list[str], mode: str, fails: bool
) -> None:
    answer = SimpleNamespace(stdout=f"Mode: {mode}\n")
    monkeypatch.setattr(ssh, "run_over_ssh", lambda *_: answer)
    context: Any = SimpleNamespace(settings=SimpleNamespace(node_root=Path))
    assert clusters.stop_failed_join(context, NODE) is fails
    assert done == ["stop"] * fails
    look = clusters.failed_join_watch(context, NODE)
    assert look() is None, "it looks now and then"
    reasons = [look() for _ in range(int(2 * clusters.ASK_AGAIN_S))]
    assert any(reasons) is fails


def test_a_node_that_does_not_answer_has_not_failed_to_join(
    monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    def hang(*_: Any) -> None:
        raise StepFailed("no answer")

    monkeypatch.setattr(ssh, "run_over_ssh", hang)
    context: Any = SimpleNamespace(settings=SimpleNamespace(node_root=Path))
    assert clusters.stop_failed_join(context, NODE) is False
    assert done == []

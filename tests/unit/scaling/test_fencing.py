"""Nothing is stopped, drained of its ranges or destroyed once another run holds the fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import StaleTokenError
from kintsugi.core.fleet import load_fleet
from kintsugi.infra.terraform import StalePlan
from kintsugi.releases.rollout_claim import ROLL_OUT
from kintsugi.scaling import clusters, provisioning, state

FLEET = load_fleet()
KAFKA, CASSANDRA, WORKER = (FLEET.node(name) for name in ("kafka-3", "cassandra-3", "spark-worker-2"))


def lost() -> None:
    raise StaleTokenError("token 1 is no longer the newest")


@pytest.fixture
def done() -> list[str]:
    return []


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch, done: list[str]) -> Any:
    """A fleet in which every look allows the change; it notes each act."""

    def control(_: Any, node: Any, verb: str, *__: Any) -> str:
        if verb != "status":
            done.append(f"{verb} {node.name}")
        return "RUNNING"

    async def status(*_: Any) -> str:
        return "LEFT" if done else "NORMAL"

    @contextmanager
    def admin(_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(clusters, "control_program", control)
    monkeypatch.setattr(clusters, "ring_status", status)
    monkeypatch.setattr(clusters, "open_admin", admin)
    monkeypatch.setattr(clusters, "read_partition_states", lambda _: {})
    monkeypatch.setattr(clusters, "hosted_on", lambda *_: [])
    monkeypatch.setattr(clusters, "find_leader", lambda _: ("127.0.0.1:9093", None))
    monkeypatch.setattr(clusters, "voter_ids", lambda _: set())
    monkeypatch.setattr(clusters, "unregister_broker", lambda *_: done.append("unregister"))
    monkeypatch.setattr(clusters, "_run_nodetool", lambda _, __, command, *___, **____: done.append(command))
    monkeypatch.setattr(clusters, "move_replicas", lambda *_, **__: done.append("move"))
    monkeypatch.setattr(clusters, "settle_voters", lambda *_, **__: done.append("settle"))
    monkeypatch.setattr(clusters, "kafka_cluster_id", lambda _: "id")
    monkeypatch.setattr(provisioning, "check_single_action", lambda *_: ["an address"])
    platform = SimpleNamespace(
        running=lambda _: True,
        make_room=lambda *_, **__: done.append("make room"),
        power_on=lambda _: done.append("power on"),
    )
    terraform = SimpleNamespace(
        known=None,
        plan=lambda **_: SimpleNamespace(document={}),
        apply=lambda _: done.append("apply"),
    )
    return SimpleNamespace(
        fleet=FLEET,
        settings=SimpleNamespace(node_root=Path),
        platform=lambda: platform,
        terraform=lambda: terraform,
    )


@pytest.mark.parametrize(
    "act",
    [
        lambda context: clusters.stop_broker(context, KAFKA, print, lost),
        lambda context: clusters.stop_worker(context, WORKER, print, lost),
        lambda context: clusters.decommission(context, CASSANDRA, print, lost),
        lambda context: clusters.clean_up(context, CASSANDRA, lost),
        lambda context: clusters.spread_partitions(context, [], 1, print, lost),
        lambda context: provisioning.create_node(context, KAFKA, lost),
        lambda context: provisioning.destroy_node(context, KAFKA, lost),
    ],
    ids=["broker", "worker", "decommission", "clean up", "spread", "create", "destroy"],
)
def test_a_step_that_was_replaced_does_nothing(
    context: Any, done: list[str], act: Callable[[Any], None]
) -> None:
    with pytest.raises(StaleTokenError):
        act(context)
    assert done == []


def test_the_stop_after_a_long_decommission_is_checked_again(context: Any, done: list[str]) -> None:
    checks = iter([lambda: None, lost])
    with pytest.raises(StaleTokenError):
        clusters.decommission(context, CASSANDRA, print, lambda: next(checks)())
    assert done == ["decommission"]


def test_a_plan_that_went_stale_is_applied_only_after_another_check(context: Any, done: list[str]) -> None:
    def stale(_: Any) -> None:
        done.append("apply")
        raise StalePlan

    context.terraform().apply = stale
    checks = iter([lambda: None, lost])
    with pytest.raises(StaleTokenError):
        provisioning.destroy_node(context, KAFKA, lambda: next(checks)())
    assert done == ["apply"]


def test_the_check_is_of_the_token_under_which_the_fleet_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[str, int]] = []
    store = SimpleNamespace(
        acquire_lease=lambda *_, **__: SimpleNamespace(token=7),
        check_lease=lambda name, token: checked.append((name, token)),
    )
    monkeypatch.setattr(state, "lease_renewal", lambda *_: nullcontext())
    with state.hold_fleet(SimpleNamespace(store=store), "scale_fleet/1") as check:  # type: ignore[arg-type]
        assert checked == []
        check()
    assert checked == [(ROLL_OUT, 7)]

"""The steps of a change of the fleet on a real store, killed and run again; servers are stood in for.

Here it is about what is held, what is on record and in which order nodes are touched. On real servers the same steps
run in tests/system/test_scaling.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.chaos.guard import protection_reasons, rollout_reasons
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.membership import Membership, read_membership, write_membership
from kintsugi.db.store import Store
from kintsugi.operations import readiness, verification
from kintsugi.operations.context import Context
from kintsugi.releases import rollout_claim, steady_state
from kintsugi.scaling import clusters, permission, provisioning, state, steps
from kintsugi.scaling.progress import describe_progress, read_progress
from kintsugi.scaling.steps import ScalingState
from tests.installations import installation
from tests.integration.db.conftest import fresh_store, postgres, store  # noqa: F401 - fixtures

RUN, NEXT = "scale_fleet/manual__1", "scale_fleet/manual__2"
NEW = "  - {name: kafka-4, role: kafka, address: 127.59.1.4}\n"
DIGEST = "c" * 64


class Killed(BaseException):
    """What SIGKILL does, as far as Python code can see it: nothing after it runs."""


@dataclass
class Servers:
    """What was done, in order. ``dies_at``: where the process is killed, once. ``reasons``: of the guards."""

    context: Context
    done: list[str] = field(default_factory=list)
    dies_at: str | None = None
    reasons: list[str] = field(default_factory=list)
    flags: dict[str, bool] = field(default_factory=dict)

    def act(self, what: str, name: str) -> str:
        self.done.append(f"{what} {name}")
        self.flags[f"{what} {name}"] = bool(self.context.store.read_maintenance(name))
        if self.dies_at == f"{what} {name}":
            self.dies_at = None
            raise Killed
        return f"{what} {name}"

    # Airflow
    def parse_again(self, dag_id: str) -> None: ...

    def await_dag(self, dag_id: str, seconds: float) -> None: ...

    def unpause(self, dag_id: str) -> None:
        self.act("watch", dag_id.removeprefix("watch_"))

    def end_dag(self, dag_id: str) -> None:
        self.act("unwatch", dag_id.removeprefix("watch_"))


@pytest.fixture
def context(store: Store, tmp_path: Path) -> Context:  # noqa: F811
    settings = installation(tmp_path, "127.59")
    write_membership(settings.control, Membership(settings.declared_fleet.nodes))
    store.add_release(DIGEST, "test")
    store.set_node_releases(settings.fleet.nodes, DIGEST)
    return Context(settings=settings, fleet=settings.fleet, store=store)


@pytest.fixture
def servers(context: Context, monkeypatch: pytest.MonkeyPatch) -> Servers:
    made = Servers(context)
    plane = SimpleNamespace(airflow=made, renew_collector=lambda: None)
    monkeypatch.setattr(steps, "ControlPlane", lambda _: plane)
    monkeypatch.setattr(permission, "passing_reasons", lambda *_: list(made.reasons))
    monkeypatch.setattr(permission, "_size_reasons", lambda *_: ([], True))
    monkeypatch.setattr(permission, "space_reasons", lambda *_: [])
    monkeypatch.setattr(permission, "POLL_S", 0.0)
    monkeypatch.setattr(permission, "WAIT_S", 0.0)
    release = SimpleNamespace(digest=DIGEST, short=DIGEST[:12])
    monkeypatch.setattr(provisioning, "release_of_declared", lambda *_: release)
    monkeypatch.setattr(provisioning, "create_node", lambda _, node, __: made.act("create", node.name))
    monkeypatch.setattr(provisioning, "configure_node", lambda _, node, *__: made.act("configure", node.name))
    monkeypatch.setattr(provisioning, "destroy_node", lambda _, node, __: made.act("destroy", node.name))
    monkeypatch.setattr(provisioning, "write_files", lambda _, names, __: made.act("write", str(len(names))))
    monkeypatch.setattr(readiness, "wait_until_ready", lambda _, __, node, ___: made.act("ready", node.name))
    monkeypatch.setattr(verification, "verify_node", lambda _, __, node: made.act("verify", node.name))
    monkeypatch.setattr(
        clusters,
        "spread_partitions",
        lambda _, leaving, *__: made.act("spread", str([n.name for n in leaving])),
    )
    monkeypatch.setattr(clusters, "start_service", lambda _, node: bool(made.act("start", node.name)))
    monkeypatch.setattr(clusters, "clean_up", lambda _, node, __: made.act("clean_up", node.name))
    releasing = {role: lambda _, node, *__: made.act("release", node.name) for role in steps._RELEASE}
    monkeypatch.setattr(steps, "_RELEASE", releasing)
    monkeypatch.setattr(steady_state, "await_steady", lambda _: None)
    monkeypatch.setattr(steady_state, "verify_synthetic_trade", lambda _: "a trade arrived")
    return made


def declare(context: Context, *, add: str = "", drop: str = "") -> None:
    file = context.settings.fleet_file
    text = file.read_text()
    if drop:
        text = re.sub(rf"  - {{name: {drop}, .*\n", "", text)
    file.write_text(text.rstrip("\n") + "\n" + add)


def own(context: Context) -> Context:
    return replace(context, fleet=context.settings.fleet)


def run(context: Context, holder: str = RUN) -> steps.ScalingResult:
    """What the DAG does, task by task, each with a context of its own."""
    steps.begin_scaling(own(context), holder, "olga")
    for role in (Role.SPARK_WORKER, Role.KAFKA, Role.CASSANDRA):
        steps.add_nodes(own(context), holder, role)
        if role is Role.KAFKA:
            steps.spread_partitions(own(context), holder, 1)
        steps.remove_nodes(own(context), holder, role)
    steps.clean_up(own(context), holder)
    steps.settle(own(context), holder)
    return finish(context, holder)


def finish(context: Context, holder: str = RUN) -> steps.ScalingResult:
    return steps.finish_scaling(own(context), holder, dry_run=False, refusal=None)


def nothing_is_held(context: Context) -> bool:
    flags = [context.store.read_maintenance(name) for name in context.settings.known_fleet.nodes]
    return context.store.read_lease(rollout_claim.ROLL_OUT) is None and not any(flags)


ADDED = [
    "create kafka-4", "configure kafka-4", "ready kafka-4", "verify kafka-4", "watch kafka-4", "spread []",
    "write 10",
]  # fmt: skip


def test_a_broker_is_made_proven_and_only_then_a_member(context: Context, servers: Servers) -> None:
    declare(context, add=NEW)
    result = run(context)
    assert servers.done == ADDED
    assert result.state is ScalingState.DONE
    assert "kafka-4" in context.settings.fleet.nodes
    assert servers.flags["watch kafka-4"], "no recovery starts for it before the end"
    assert nothing_is_held(context)
    progress = read_progress(context.store)
    assert progress is not None
    assert (progress["state"], progress["started_by"]) == ("done", "olga")
    assert describe_progress(progress) == ""


@pytest.mark.parametrize("step", ADDED)
def test_an_addition_that_is_killed_goes_on(context: Context, servers: Servers, step: str) -> None:
    declare(context, add=NEW)
    servers.dies_at = step
    with pytest.raises(Killed):
        run(context)
    assert state.read_plan(context), "what is left to do is on record"
    assert describe_progress(read_progress(context.store)), "the page shows how far it is"
    context.store.give_back(rollout_claim.ROLL_OUT, RUN)  # its lease has expired
    assert run(context, NEXT).state is ScalingState.DONE
    assert "kafka-4" in context.settings.fleet.nodes
    assert servers.done.count("watch kafka-4") >= 1
    assert nothing_is_held(context)
    assert not state.read_plan(context)


def grow(context: Context, *nodes: Node) -> None:
    membership = read_membership(context.settings.control)
    assert membership is not None
    for node in nodes:
        membership = membership.with_member(node)
    settled = replace(membership, unwatched=(), cleanup=(), spread=False, settle=False)
    write_membership(context.settings.control, settled)
    context.store.set_node_releases([node.name for node in nodes], DIGEST)


KAFKA_4 = Node("kafka-4", Role.KAFKA, "127.59.1.4", 2222)
REMOVED = ["spread ['kafka-4']", "unwatch kafka-4", "release kafka-4", "destroy kafka-4", "write 9"]


def test_a_broker_is_emptied_and_unwatched_before_it_is_destroyed(context: Context, servers: Servers) -> None:
    grow(context, KAFKA_4)
    assert run(context).state is ScalingState.DONE
    assert servers.done == REMOVED
    assert servers.flags["release kafka-4"], "no recovery starts for it"
    assert "kafka-4" not in context.settings.known_fleet.nodes
    assert "kafka-4" not in context.store.node_releases()
    assert nothing_is_held(context)


@pytest.mark.parametrize("step", REMOVED)
def test_a_removal_that_is_killed_goes_on(context: Context, servers: Servers, step: str) -> None:
    grow(context, KAFKA_4)
    servers.dies_at = step
    with pytest.raises(Killed):
        run(context)
    context.store.give_back(rollout_claim.ROLL_OUT, RUN)
    assert run(context, NEXT).state is ScalingState.DONE
    assert "kafka-4" not in context.settings.known_fleet.nodes
    assert nothing_is_held(context)


def test_a_removal_that_is_taken_back_watches_the_node_again(context: Context, servers: Servers) -> None:
    grow(context, KAFKA_4)
    servers.dies_at = "release kafka-4"
    with pytest.raises(Killed):
        run(context)
    context.store.give_back(rollout_claim.ROLL_OUT, RUN)
    declare(context, add=NEW)
    servers.done.clear()
    assert run(context, NEXT).state is ScalingState.DONE
    assert servers.done == ["start kafka-4", "ready kafka-4", "watch kafka-4", "spread []"]


def test_a_spread_that_is_taken_back_half_way_is_undone(context: Context, servers: Servers) -> None:
    grow(context, KAFKA_4)
    servers.dies_at = "spread ['kafka-4']"
    with pytest.raises(Killed):
        run(context)
    context.store.give_back(rollout_claim.ROLL_OUT, RUN)
    declare(context, add=NEW)
    servers.done.clear()
    assert run(context, NEXT).state is ScalingState.DONE
    assert servers.done == ["spread []"]


def test_an_addition_that_is_taken_back_is_removed(context: Context, servers: Servers) -> None:
    declare(context, add=NEW)
    servers.dies_at = "ready kafka-4"
    with pytest.raises(Killed):
        run(context)
    context.store.give_back(rollout_claim.ROLL_OUT, RUN)
    declare(context, drop="kafka-4")
    servers.done.clear()
    assert run(context, NEXT).state is ScalingState.DONE
    assert servers.done == REMOVED
    assert "kafka-4" not in context.settings.known_fleet.nodes


def test_a_new_cassandra_node_lets_the_others_clean_up(context: Context, servers: Servers) -> None:
    declare(context, add="  - {name: cassandra-4, role: cassandra, address: 127.59.2.4}\n")
    servers.dies_at = "clean_up cassandra-2"
    with pytest.raises(Killed):
        run(context)
    context.store.give_back(rollout_claim.ROLL_OUT, RUN)
    run(context, NEXT)
    cleaned = [one for one in servers.done if one.startswith("clean_up")]
    assert cleaned == [f"clean_up cassandra-{n}" for n in (1, 2, 2, 3)]


def test_nothing_is_touched_while_a_guard_refuses(context: Context, servers: Servers) -> None:
    declare(context, add=NEW)
    servers.reasons = ["kafka-2: it is away."]
    steps.begin_scaling(own(context), RUN, "olga")
    with pytest.raises(GuardRefused, match="kafka-2"):
        steps.add_nodes(own(context), RUN, Role.KAFKA)
    assert servers.done == []
    result = finish(context)
    assert result.state is ScalingState.FAILED
    assert nothing_is_held(context)


def test_meanwhile_no_fault_no_roll_out_and_no_second_run_begins(context: Context, servers: Servers) -> None:
    grow(context, KAFKA_4)
    steps.begin_scaling(own(context), RUN, "olga")
    assert rollout_reasons(context)
    assert protection_reasons(own(context), ["kafka-4"]), "chaos does not choose a node that leaves"
    with pytest.raises(GuardRefused):
        rollout_claim.claim_rollout(context, "manual__9")
    with pytest.raises(GuardRefused):
        steps.begin_scaling(own(context), NEXT, "ann")


def test_a_dry_run_changes_nothing(context: Context, servers: Servers) -> None:
    declare(context, add=NEW)
    result = steps.finish_scaling(own(context), RUN, dry_run=True, refusal=None)
    assert result.state is ScalingState.DRY_RUN
    assert "kafka-4" in result.text
    assert servers.done == []
    assert read_progress(context.store) is None


def test_without_a_record_of_members_it_is_refused(context: Context, servers: Servers) -> None:
    (context.settings.control / "formed" / "fleet.json").unlink()
    with pytest.raises(GuardRefused, match="make up"):
        steps.check_scaling(own(context), RUN)


def test_a_failure_leaves_what_is_to_do_on_record(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StepFailed("no space")

    declare(context, add=NEW)
    monkeypatch.setattr(provisioning, "create_node", fail)
    steps.begin_scaling(own(context), RUN, "olga")
    with pytest.raises(StepFailed):
        steps.add_nodes(own(context), RUN, Role.KAFKA)
    result = finish(context)
    assert result.state is ScalingState.FAILED
    assert "kafka-4" in result.text
    assert nothing_is_held(context)

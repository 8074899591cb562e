"""The steps of a roll-out on a real store, killed and run again; servers are stood in for.

Here it is about who is touched, in which order, and what stands on record when a task dies. On real servers the same
steps run in test_release.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, LeaseHeld, StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.rollout_state import NodeState
from kintsugi.db.advisory_locks import KILL
from kintsugi.db.store import Store
from kintsugi.infra.ansible import Checked
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.releases import (
    assignment,
    node_update,
    release_artifacts,
    release_checks,
    release_features,
    rollout,
    rollout_claim,
    rollout_record,
    rollout_steps,
    steady_state,
)
from kintsugi.releases.archive import Release
from kintsugi.releases.steady_state import Steady
from tests.installations import installation
from tests.integration.db.conftest import fresh_store, postgres, store  # noqa: F401 - fixtures

OLD, NEW = "a" * 64, "b" * 64
RUN = "manual__1"


class Killed(BaseException):
    """What SIGKILL does, as far as Python code can see it: nothing after it runs."""


@dataclass
class Servers:
    """Nine servers that do what a test tells them to."""

    differs: dict[str, tuple[str, ...]]
    bad: set[tuple[str, str]] = field(default_factory=set)  # node, digest: doesn't come up on it
    unproven: set[tuple[str, str]] = field(default_factory=set)
    dies_at: str | None = None
    failed: dict[str, str] = field(default_factory=dict)
    sick: dict[str, str] = field(default_factory=dict)
    restarted: list[tuple[str, str]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    judged_in_lock: bool = False
    needed: list[str] = field(default_factory=list)  # why no server that serves may be stopped

    def judge(self, context: Context, node: Node) -> list[str]:
        with context.store.transaction() as connection:
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS free", (KILL,)).fetchone()
        assert row is not None
        self.judged_in_lock |= not row["free"]
        return self.needed

    def check(self, nodes: list[str], **_: Any) -> Checked:
        differs = {node: self.differs.get(node, ()) for node in nodes if node not in self.failed}
        return Checked(differs, self.failed, {})


@dataclass
class Fake:
    """Ansible of one release."""

    servers: Servers
    digest: str

    def check(self, nodes: list[str], **kw: Any) -> Checked:
        return self.servers.check(nodes, **kw)

    def run(self, playbook: str, *, limit: str, **_: Any) -> None:
        assert playbook == "restart.yml"
        self.servers.restarted.append((limit, self.digest[0]))
        self.servers.runs[limit] = self.digest
        if self.servers.dies_at == limit:
            self.servers.dies_at = None
            raise Killed
        if (limit, self.digest[0]) in self.servers.bad:
            raise StepFailed(f"{limit} doesn't listen")


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    made = Servers({"kafka-1": ("/etc/x",), "kafka-2": ("/etc/x",), "kafka-3": ("/etc/x",)})

    def proof(context: Context, node: str) -> str:
        if (node, made.runs[node][0]) in made.unproven:
            raise StepFailed(f"{node} leads no partition")
        return f"{node} serves"

    def look(context: Context, *, but: Any = ()) -> Steady:
        return Steady({node: what for node, what in made.sick.items() if node not in but})

    for module in (node_update, release_checks):
        monkeypatch.setattr(module, "Ansible", lambda settings, release: Fake(made, release.digest))
    monkeypatch.setattr(node_update, "verify_node", proof)
    monkeypatch.setattr(node_update, "stop_service", lambda context, node: made.stopped.append(node))
    monkeypatch.setattr(stream_driver, "driver_variables", lambda context: {})
    monkeypatch.setattr(rollout_steps, "archive_deployment", lambda context, ended: None)
    monkeypatch.setattr(assignment, "open_release", lambda context, digest: Release(digest, Path("/nowhere")))
    monkeypatch.setattr(release_checks, "check_fit", lambda context, release: None)
    monkeypatch.setattr(release_checks, "check_way_back", lambda context, back_to: None)
    monkeypatch.setattr(release_artifacts, "provide_artifacts", lambda context, release: [])
    monkeypatch.setattr(release_features, "check_features", lambda context, release, back_to: None)
    monkeypatch.setattr(release_artifacts, "remove_unneeded", lambda context: [])
    monkeypatch.setattr(steady_state, "observe_fleet", look)
    monkeypatch.setattr(steady_state, "verify_synthetic_trade", lambda context: "a canary arrived")
    monkeypatch.setattr(steady_state, "GATE_S", 0.0)
    monkeypatch.setattr(rollout_steps, "NODE_HOLD_S", 0.0)
    monkeypatch.setattr(rollout_claim, "LEASE_WAIT_S", 0.0)
    return made


@pytest.fixture
def context(store: Store, servers: Servers, tmp_path: Path) -> Context:  # noqa: F811
    settings = installation(tmp_path, "127.39")
    for digest in (OLD, NEW):
        store.add_release(digest, "test")
    store.mark_known_good(OLD)
    store.set_node_releases(settings.fleet.nodes, OLD)
    return Context(settings=settings, fleet=settings.fleet, store=store)


def roll_out(
    context: Context, servers: Servers, run: str = RUN, wanted: str = NEW
) -> rollout_record.RolloutRecord:
    """What the DAG does: every task once, those after a failure left out, the way back and the end always."""

    def tasks() -> None:
        rollout_steps.prepare_rollout(context, run, wanted)
        rollout_steps.plan_rollout(context, run)
        for node in rollout.update_order(context.fleet):
            rollout_steps.update_node(context, run, node.name, servers.judge)
            rollout_steps.verify_update(context, run, node.name, servers.judge)
        rollout_steps.bake_release(context, run, 0.0)

    try:
        tasks()
    except (StepFailed, GuardRefused):
        with suppress(StepFailed, GuardRefused):
            rollout_steps.roll_back(context, run, servers.judge)
    return rollout_steps.finish_rollout(context, run)


def on(context: Context) -> dict[str, str]:
    return {node: record.digest[0] for node, record in context.store.node_releases().items()}


def nothing_is_held(context: Context) -> bool:
    names = [*context.fleet.nodes, rollout_claim.ROLL_OUT]
    return all(
        context.store.read_lease(name) is None and not context.store.read_maintenance(name) for name in names
    )


def test_only_what_changes_is_restarted_and_then_all_is_known_good(
    context: Context, servers: Servers
) -> None:
    story = roll_out(context, servers)
    assert story.well, story.text
    assert servers.restarted == [("kafka-1", "b"), ("kafka-2", "b"), ("kafka-3", "b")]
    assert set(on(context).values()) == {"b"}
    good = context.store.last_known_good()
    assert good is not None
    assert good.digest == NEW
    assert nothing_is_held(context)


def test_the_first_bad_probe_ends_it_and_the_node_returns(context: Context, servers: Servers) -> None:
    servers.bad = {("kafka-1", "b")}
    story = roll_out(context, servers)
    assert not story.well
    assert servers.restarted == [("kafka-1", "b"), ("kafka-1", "a")]
    assert servers.stopped == ["kafka-1"] * 3, "to be updated, after the bad probe, and to be rolled back"
    assert servers.judged_in_lock
    assert set(on(context).values()) == {"a"}
    assert context.store.release_record(NEW).bad_reason == "kafka-1: kafka-1 doesn't listen"
    assert context.store.read_deployment(RUN).state == "returned"
    assert nothing_is_held(context)


def test_a_server_that_its_peers_need_runs_on_after_a_bad_probe(context: Context, servers: Servers) -> None:
    servers.unproven, servers.needed = {("kafka-1", "b")}, ["kafka-2 is not caught up"]
    story = roll_out(context, servers)
    assert servers.stopped == ["kafka-1"], "to be updated"
    assert servers.restarted == [("kafka-1", "b")]
    deployment = context.store.read_deployment(RUN)
    assert (deployment.state, deployment.step("kafka-1").state) == ("stuck", NodeState.FAILED)
    assert [entry for entry in deployment.entries if entry.node == "kafka-1" and "caught up" in entry.message]
    assert not story.well
    assert nothing_is_held(context)


def test_all_that_was_touched_returns_the_sick_one_first(context: Context, servers: Servers) -> None:
    servers.unproven = {("kafka-3", "b")}
    roll_out(context, servers)
    assert servers.restarted[3:] == [("kafka-3", "a"), ("kafka-2", "a"), ("kafka-1", "a")]
    assert set(on(context).values()) == {"a"}


def test_what_does_not_render_touches_nothing(context: Context, servers: Servers) -> None:
    servers.failed = {"cassandra-1": "task 'Write the configuration': 'hep' is undefined"}
    story = roll_out(context, servers)
    assert servers.restarted == []
    assert "stopped" in story.text
    assert "'hep' is undefined" in str(context.store.release_record(NEW).bad_reason)
    with pytest.raises(GuardRefused, match="is marked bad"):
        rollout_steps.prepare_rollout(context, "manual__2", NEW)
    assert nothing_is_held(context)
    assert rollout_steps.prepare_rollout(context, "manual__3", NEW, again=True).state == "running"


def test_jars_that_cannot_be_had_end_it_before_it_begins(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> list[str]:
        raise GuardRefused("no way to Maven")

    monkeypatch.setattr(release_artifacts, "provide_artifacts", refuse)
    with pytest.raises(GuardRefused, match="no way to Maven"):
        rollout_steps.prepare_rollout(context, RUN, NEW)
    assert context.store.read_deployments() == []
    assert context.store.release_record(NEW).verdict == "unproven"
    assert nothing_is_held(context)
    monkeypatch.setattr(release_artifacts, "provide_artifacts", lambda *_: ["kafka"])
    opened = rollout_steps.prepare_rollout(context, RUN, NEW)
    assert "kafka" in context.store.read_deployment(opened.id).entries[-1].message


def test_a_kafka_that_could_not_be_rolled_back_touches_nothing_and_is_not_bad(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def refuse(_: Context, release: Release, back_to: Release) -> None:
        asked.append((release.digest[0], back_to.digest[0]))
        raise GuardRefused("metadata.version is 33")

    monkeypatch.setattr(release_features, "check_features", refuse)
    story = roll_out(context, servers)
    assert asked == [("b", "a")]
    assert servers.restarted == []
    assert "stopped" in story.text
    assert context.store.release_record(NEW).verdict == "unproven"
    assert nothing_is_held(context)


def test_old_jars_are_removed_only_after_a_release_became_known_good(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    removals: list[str | None] = []

    def remove(_: Context) -> list[str]:
        good = context.store.last_known_good()
        removals.append(good.digest[0] if good else None)
        raise OSError("read-only")

    monkeypatch.setattr(release_artifacts, "remove_unneeded", remove)
    servers.bad = {("kafka-1", "b")}
    roll_out(context, servers)
    assert removals == []
    servers.bad = set()
    context.store.mark_known_good(NEW)  # its bad mark is gone
    assert roll_out(context, servers, "manual__2").well, (
        "a roll-out that held is well, whatever the cache does"
    )
    assert removals == ["b"]


def test_a_look_that_fails_once_is_not_held_against_the_release(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    check: Callable[..., Checked] = Fake.check

    def broken_connection(self: Fake, nodes: list[str], **kw: Any) -> Checked:
        servers.failed = {"cassandra-2": "Unknown error"} if len(nodes) > 1 else {}
        return check(self, nodes, **kw)

    monkeypatch.setattr(Fake, "check", broken_connection)
    rollout_steps.prepare_rollout(context, RUN, NEW)
    assert len(rollout_steps.plan_rollout(context, RUN).steps) == len(context.fleet.nodes)
    assert context.store.release_record(NEW).verdict == "unproven"


def test_a_node_that_does_not_come_back_is_left_to_its_watch(context: Context, servers: Servers) -> None:
    servers.bad = {("kafka-2", "b"), ("kafka-2", "a")}
    story = roll_out(context, servers)
    assert servers.restarted == [("kafka-1", "b"), ("kafka-2", "b"), ("kafka-2", "a")]
    assert "stuck" in story.text
    assert context.store.read_lease("kafka-2") is None
    assert on(context)["kafka-2"] == "a"  # so recovery configures it from the known-good release


@pytest.mark.parametrize("at", ["kafka-1", "kafka-3"])
def test_a_task_killed_while_it_restarts_is_run_again(context: Context, servers: Servers, at: str) -> None:
    servers.dies_at = at
    with pytest.raises(Killed):
        roll_out(context, servers)
    assert context.store.read_deployment(RUN).step(at).state is NodeState.TOUCHED
    assert context.store.read_lease(at) is not None
    assert on(context)[at] == "b"
    story = roll_out(context, servers)
    assert story.well, story.text
    assert [node for node, _ in servers.restarted].count(at) == 2
    assert len(servers.restarted) == 4
    assert nothing_is_held(context)


def test_the_way_back_killed_in_the_middle_is_finished(context: Context, servers: Servers) -> None:
    servers.unproven = {("kafka-2", "b")}
    original = node_update.restart_node

    def dies_on_the_way_back(context: Context, release: Release, node: str, token: int) -> None:
        original(context, release, node, token)
        if release.digest == OLD:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_update, "restart_node", dies_on_the_way_back)
        with pytest.raises(Killed):
            roll_out(context, servers)
    rollout_steps.roll_back(context, RUN, servers.judge)
    assert context.store.read_deployment(RUN).step("kafka-2").state is NodeState.RETURNED
    assert not rollout_steps.finish_rollout(context, RUN).well
    assert set(on(context).values()) == {"a"}
    assert nothing_is_held(context)


def test_no_node_is_touched_while_something_is_sick(context: Context, servers: Servers) -> None:
    servers.sick = {"cassandra-3": "it doesn't answer"}
    story = roll_out(context, servers)
    assert servers.restarted == []
    assert "stopped" in story.text
    assert context.store.release_record(NEW).verdict == "unproven"


def test_a_proven_node_that_falls_sick_later_counts_against_the_release(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[..., None] = Fake.run

    def falls_sick(self: Fake, playbook: str, *, limit: str, **kw: Any) -> None:
        run(self, playbook, limit=limit, **kw)
        if self.digest == OLD:
            servers.sick.pop(limit, None)

    monkeypatch.setattr(Fake, "run", falls_sick)
    rollout_steps.prepare_rollout(context, RUN, NEW)
    rollout_steps.plan_rollout(context, RUN)
    for node in rollout.update_order(context.fleet)[:4]:
        rollout_steps.update_node(context, RUN, node.name, servers.judge)
        rollout_steps.verify_update(context, RUN, node.name, servers.judge)
    servers.sick = {"kafka-1": "out of sync"}
    with pytest.raises(StepFailed, match="kafka-1 failed after it was verified"):
        rollout_steps.update_node(context, RUN, "kafka-3", servers.judge)
    rollout_steps.roll_back(context, RUN, servers.judge)
    assert servers.restarted[2:] == [
        ("kafka-1", "a"),
        ("kafka-2", "a"),
    ]  # kafka-2 serves, so it waits its turn
    assert context.store.release_record(NEW).verdict == "bad"


def test_a_persons_maintenance_mark_is_kept(context: Context, servers: Servers) -> None:
    context.store.set_maintenance("kafka-2", reason="new disk", user="ann")
    roll_out(context, servers)
    assert servers.restarted == [("kafka-1", "b")]
    assert [flag.user for flag in context.store.read_maintenance("kafka-2")] == ["ann"]


def test_a_node_under_repair_is_not_touched(context: Context, servers: Servers) -> None:
    context.store.acquire_lease("kafka-1", "watch_kafka-1/run", 60)
    rollout_steps.prepare_rollout(context, RUN, NEW)
    rollout_steps.plan_rollout(context, RUN)
    for node in rollout.update_order(context.fleet)[:2]:
        rollout_steps.update_node(context, RUN, node.name, servers.judge)
    with pytest.raises(LeaseHeld, match="watch_kafka-1"):
        rollout_steps.update_node(context, RUN, "kafka-1", servers.judge)
    assert servers.restarted == []


def test_a_second_roll_out_waits_and_takes_over_when_the_first_is_gone(
    context: Context, servers: Servers
) -> None:
    rollout_steps.prepare_rollout(context, RUN, NEW)
    with pytest.raises(GuardRefused, match="another roll-out is running"):
        rollout_steps.prepare_rollout(context, "manual__2", NEW)
    with context.store.transaction() as connection:  # the lease lapses, as when everything was killed
        connection.execute("UPDATE lease SET expires_at = clock_timestamp() - interval '1s'")
    assert rollout_steps.prepare_rollout(context, "manual__2", NEW).state == "running"
    assert context.store.read_deployment(RUN).state == "stopped"


def test_a_fleet_whose_canary_does_not_arrive_gets_no_release(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(context: Context) -> str:
        raise StepFailed("it didn't arrive")

    monkeypatch.setattr(steady_state, "verify_synthetic_trade", lost)
    roll_out(context, servers)
    assert servers.restarted == []
    assert context.store.release_record(NEW).verdict == "unproven"


def test_a_bad_hold_returns_everything(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["before the roll-out it arrived"])

    def once(context: Context) -> str:
        try:
            return next(said)
        except StopIteration:
            raise StepFailed("it didn't arrive") from None

    monkeypatch.setattr(steady_state, "verify_synthetic_trade", once)
    story = roll_out(context, servers)
    assert servers.restarted[3:] == [("kafka-3", "a"), ("kafka-2", "a"), ("kafka-1", "a")]
    assert "returned" in story.text
    assert context.store.last_known_good().digest == OLD  # type: ignore[union-attr]


def test_the_known_good_release_rolled_out_again_is_never_marked_bad(
    context: Context, servers: Servers
) -> None:
    servers.bad = {("kafka-1", "a")}
    story = roll_out(context, servers, wanted=OLD)
    assert not story.well
    assert context.store.release_record(OLD).verdict == "known-good"
    assert servers.restarted == [("kafka-1", "a")]  # there is nothing to go back to: recovery's business
    assert nothing_is_held(context)

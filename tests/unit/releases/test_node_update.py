"""A roll-out stops a service only under the kill lock, with its lease, and after another look at the node's role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, StaleTokenError, StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.core.rollout_state import NodeRollout, NodeState
from kintsugi.releases import node_update, rollout_steps, steady_state
from kintsugi.releases.steady_state import Steady

FLEET = load_fleet()
RUN, NODE, PEER = "manual__1", "cassandra-1", "cassandra-2"
BAD, GOOD = "b" * 64, "a" * 64


@dataclass
class Fleet:
    """Database and servers of one roll-out. ``log``: what was done, in order; ``!`` marks what the kill lock covers.

    ``needed``: why the node must not be stopped. ``sick``: what the steady state lacks, by node.
    ``on_claim``: what happens while the node's lease is waited for.
    """

    state: NodeState = NodeState.WAITING
    broken: str | None = None
    needed: list[str] = field(default_factory=list)
    sick: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fails: bool = False
    stale: bool = False
    locked: bool = False
    lock_held_elsewhere: bool = False
    on_claim: Callable[[], None] = lambda: None

    # The database
    @contextmanager
    def kill_lock(self) -> Iterator[None]:
        if self.lock_held_elsewhere:
            raise GuardRefused("another recovery has held the kill lock for 60 s")
        self.locked = True
        yield
        self.locked = False

    def acquire_lease(self, *_: Any, **__: Any) -> Any:
        self.on_claim()
        return SimpleNamespace(token=1)

    def renew_lease(self, node: str, token: int, _: float) -> None:
        assert token == 1
        if self.stale:
            raise StaleTokenError("a recovery holds it")
        self.act(f"fenced {node}")

    def read_deployment(self, _: str) -> Any:
        step = NodeRollout(NODE, ("/etc/x",), self.state)
        return SimpleNamespace(
            id=RUN, state="running", digest=BAD, back_to=GOOD, broken=self.broken, steps=[step],
            step=lambda _: step,
        )  # fmt: skip

    def set_deployment_node(self, _: str, __: str, state: NodeState, ___: str) -> None:
        self.state = state

    def break_deployment(self, _: str, reason: str) -> None:
        self.broken = reason

    def note_deployment(self, _: str, message: str, node: str | None = None) -> None:
        self.notes.append(f"{node}: {message}")

    def mark_bad(self, *_: Any) -> bool:
        return True

    def read_maintenance(self, _: str) -> list[Any]:
        return []

    def ignore(self, *_: Any, **__: Any) -> None: ...

    set_maintenance = clear_maintenance = release_lease = set_node_releases = ignore

    # The servers
    def act(self, what: str) -> None:
        self.log.append(f"{what}{'!' if self.locked else ''}")

    def look(self, _: Any, *, but: Any = ()) -> Steady:
        self.act("look")
        return Steady({node: what for node, what in self.sick.items() if node not in but})

    def judge(self, _: Any, node: Any) -> list[str]:
        self.act(f"judge {node.name}")
        return self.needed

    def restart(self, _: Any, release: Any, node: str, __: int) -> None:
        self.act(f"restart {node} {release.digest[0]}")

    def verify(self, *_: Any) -> str:
        if self.fails:
            raise StepFailed("not ready after 150 s")
        return "it serves"


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet()
    monkeypatch.setattr(steady_state, "observe_fleet", made.look)
    monkeypatch.setattr(steady_state, "GATE_S", 0.0)
    monkeypatch.setattr(node_update, "stop_service", lambda _, node: made.act(f"stop {node}"))
    monkeypatch.setattr(node_update, "restart_node", made.restart)
    monkeypatch.setattr(node_update, "verify_node", made.verify)
    monkeypatch.setattr(rollout_steps, "claim_rollout", lambda *_: None)
    monkeypatch.setattr("kintsugi.releases.rollout_claim.claim_rollout", lambda *_: None)
    monkeypatch.setattr(rollout_steps, "NODE_HOLD_S", 0.0)
    monkeypatch.setattr(
        "kintsugi.releases.assignment.open_release",
        lambda _, digest: SimpleNamespace(digest=digest, short=digest[:12]),
    )
    return made


def context(fleet: Fleet) -> Any:
    return SimpleNamespace(fleet=FLEET, store=fleet)


def update(fleet: Fleet) -> str:
    return rollout_steps.update_node(context(fleet), RUN, NODE, fleet.judge)


def verify(fleet: Fleet) -> str:
    fleet.state = NodeState.TOUCHED
    return rollout_steps.verify_update(context(fleet), RUN, NODE, fleet.judge)


def roll_back(fleet: Fleet) -> str:
    fleet.broken = "a probe failed"
    return rollout_steps.roll_back(context(fleet), RUN, fleet.judge)


def acts(fleet: Fleet) -> list[str]:
    return [one for one in fleet.log if one.startswith(("stop", "restart"))]


def test_the_role_is_judged_again_under_the_lock_and_only_the_stop_is_in_it(fleet: Fleet) -> None:
    update(fleet)
    assert fleet.log == ["look", "look!", f"fenced {NODE}!", f"stop {NODE}!", f"restart {NODE} b"]


def test_a_peer_that_fails_while_the_lease_is_waited_for_ends_the_update(fleet: Fleet) -> None:
    fleet.on_claim = lambda: fleet.sick.update({PEER: "it doesn't answer"})
    with pytest.raises(GuardRefused, match=PEER):
        update(fleet)
    assert acts(fleet) == []
    assert (fleet.state, fleet.broken) == (NodeState.WAITING, None), "that is not the release's fault"


def test_another_role_does_not_end_it_that_late(fleet: Fleet) -> None:
    fleet.on_claim = lambda: fleet.sick.update({"kafka-1": "it is out of sync"})
    update(fleet)
    assert acts(fleet) == [f"stop {NODE}!", f"restart {NODE} b"]


def test_a_killed_update_runs_again_on_the_node_that_it_left_down(fleet: Fleet) -> None:
    fleet.state, fleet.sick = NodeState.TOUCHED, {NODE: "it doesn't answer"}
    update(fleet)
    assert acts(fleet) == [f"stop {NODE}!", f"restart {NODE} b"]


@pytest.mark.parametrize("fault", ["lock_held_elsewhere", "stale"])
def test_nothing_is_stopped_without_the_lock_and_the_lease(fleet: Fleet, fault: str) -> None:
    setattr(fleet, fault, True)
    with pytest.raises((GuardRefused, StaleTokenError)):
        update(fleet)
    assert acts(fleet) == []


def test_a_failed_probe_stops_a_node_that_its_peers_can_do_without(fleet: Fleet) -> None:
    fleet.fails = True
    with pytest.raises(StepFailed, match="150 s"):
        verify(fleet)
    assert fleet.log == [f"judge {NODE}!", f"fenced {NODE}!", f"stop {NODE}!"]
    assert fleet.state is NodeState.FAILED
    assert fleet.notes == []


@pytest.mark.parametrize("fault", ["needed", "lock_held_elsewhere", "stale"])
def test_a_node_that_its_peers_need_is_left_running_and_the_way_back_begins(fleet: Fleet, fault: str) -> None:
    fleet.fails = True
    setattr(fleet, fault, ["1 other Cassandra node is down."] if fault == "needed" else True)
    with pytest.raises(StepFailed, match="150 s"):
        verify(fleet)
    assert acts(fleet) == []
    assert fleet.state is NodeState.FAILED
    assert fleet.broken == f"{NODE}: not ready after 150 s"
    assert [note.partition(":")[0] for note in fleet.notes] == [NODE], "the journal says so"


@pytest.mark.parametrize("state", [NodeState.FAILED, NodeState.TOUCHED])
def test_a_broken_node_is_rolled_back_whatever_its_peers_do(fleet: Fleet, state: NodeState) -> None:
    fleet.state, fleet.sick = state, {NODE: "it doesn't answer", PEER: "it can't read from all replicas"}
    roll_back(fleet)
    assert acts(fleet) == [f"stop {NODE}!", f"restart {NODE} a"]
    assert fleet.state is NodeState.RETURNED


def test_a_failed_node_that_its_peers_need_is_not_rolled_back_yet(fleet: Fleet) -> None:
    fleet.state, fleet.needed = NodeState.FAILED, ["1 other Cassandra node is down."]
    with pytest.raises(GuardRefused, match="is down"):
        roll_back(fleet)
    assert acts(fleet) == []
    assert fleet.state is NodeState.FAILED


def test_a_failed_node_is_judged_again_after_the_wait_for_its_lease(fleet: Fleet) -> None:
    fleet.state = NodeState.FAILED
    fleet.on_claim = lambda: fleet.needed.append("1 other Cassandra node is down.")
    with pytest.raises(GuardRefused, match="is down"):
        roll_back(fleet)
    assert acts(fleet) == []


def test_a_verified_node_is_judged_again_before_it_is_rolled_back(fleet: Fleet) -> None:
    fleet.state = NodeState.PROVEN
    roll_back(fleet)
    assert fleet.log == ["look", "look!", f"fenced {NODE}!", f"stop {NODE}!", f"restart {NODE} a"]
    fleet.state, fleet.log = NodeState.PROVEN, []
    fleet.on_claim = lambda: fleet.sick.update({PEER: "it doesn't answer"})
    with pytest.raises(GuardRefused, match=PEER):
        roll_back(fleet)
    assert acts(fleet) == []


def test_a_stop_that_fails_is_left_to_the_playbook(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def control(_: Any, node: Any, verb: str, program: str, __: float) -> str:
        asked.append((node.name, verb, program))
        raise StepFailed("no answer over SSH")

    monkeypatch.setattr(node_update, "control_program", control)
    node_update.stop_service(SimpleNamespace(fleet=FLEET), NODE)  # type: ignore[arg-type]
    assert asked == [(NODE, "stop", "cassandra")]

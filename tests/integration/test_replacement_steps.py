"""The steps of a replacement on a real store, killed and run again; servers, guards and init are stood in for.

Here it is about what is held, what is on record and in which order a node is touched. The recovery in between has tests
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, LeaseHeld, StepFailed
from kintsugi.core.incident import Action, Incident, Outcome
from kintsugi.db.store import Store
from kintsugi.notify.paging_rules import incident_pages
from kintsugi.operations.context import Context, RecoveryRef
from kintsugi.recovery import report
from kintsugi.replacement import drain, permission, steps
from kintsugi.replacement.steps import ReplacementState
from tests.installations import installation
from tests.integration.db.conftest import fresh_store, postgres, store  # noqa: F401 - fixtures
from tests.integration.db.store_steps import NOW, lapse

NODE, RUN, WATCH = "kafka-2", "replace_node/manual__1", "watch_kafka-2/run-1"


class Killed(BaseException):
    """What SIGKILL does, as far as Python code can see it: nothing after it runs."""


@dataclass
class Servers:
    """The guards' answers, and what was done to the node."""

    context: Context
    reasons: list[str] = field(default_factory=list)
    dies_at: str | None = None
    stuck: bool = False
    done: list[str] = field(default_factory=list)
    budgets: list[Any] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    def ask(self, context: Context, node: Any, holder: str, budget: Any = None) -> list[str]:
        self.budgets.append(budget)
        self.done.append("ask")
        return list(self.reasons)

    def act(self, name: str) -> None:
        self.done.append(name)
        if name == "stop":
            self.flags = [flag.user for flag in self.context.store.read_maintenance(NODE)]
        if self.dies_at == name:
            self.dies_at = None
            raise Killed
        if self.stuck:
            raise StepFailed("the init does not answer")

    def released(self, fleet: Any, node: Any) -> str:
        self.act("released")
        return f"{node.name} is drained"


@pytest.fixture
def context(store: Store, tmp_path: Path) -> Context:  # noqa: F811
    settings = installation(tmp_path, "127.56")
    return Context(settings=settings, fleet=settings.fleet, store=store)


@pytest.fixture
def servers(context: Context, monkeypatch: pytest.MonkeyPatch) -> Servers:
    made = Servers(context)
    monkeypatch.setattr(permission, "refusal_reasons", made.ask)
    monkeypatch.setattr(drain, "stop_service", lambda *_: made.act("stop"))
    monkeypatch.setattr(drain, "start_service", lambda *_: made.act("start"))
    monkeypatch.setattr(drain, "wait_until_released", made.released)
    return made


def drain_node(context: Context, **changes: Any) -> str:
    given: dict[str, Any] = {"started_by": "olga", "approved_by": None, "what": "a new server", **changes}
    return steps.drain_node(context, NODE, RUN, **given)


def finish(context: Context, refusal: str | None = None) -> steps.ReplacementResult:
    return steps.finish_replacement(context, NODE, RUN, dry_run=False, refusal=refusal)


def record_of(context: Context) -> Incident:
    found = steps.find_record(context, NODE, RUN)
    assert found is not None
    return found


def nothing_is_held(context: Context) -> bool:
    return context.store.read_lease(NODE) is None and not context.store.read_maintenance(NODE)


def journal(incident: Incident, step: str, message: str = "done", **data: Any) -> Incident:
    """Return the incident with one more entry of this run, as a step of the recovery would write it."""
    entry = replace(incident.entries[-1], step=step, message=message, data={"run": RUN, **data})
    return replace(incident, entries=(*incident.entries, entry))


def test_the_guards_are_asked_with_the_incidents_budget_before_the_node_is_stopped(
    context: Context, servers: Servers
) -> None:
    drain_node(context)
    assert servers.done == ["ask", "stop", "released"]
    assert servers.budgets[0].maintenance == (), "its own maintenance flag must not refuse it"
    assert servers.flags == [RUN]
    lease = context.store.read_lease(NODE)
    assert lease is not None
    assert lease.holder == RUN
    named = [entry.data["started_by"] for entry in record_of(context).entries if "started_by" in entry.data]
    assert named == ["olga"]


def test_a_refusal_stops_nothing_holds_nothing_and_pages_nobody(context: Context, servers: Servers) -> None:
    servers.reasons = ["kafka-1 is down."]
    with pytest.raises(GuardRefused, match="kafka-1 is down"):
        drain_node(context)
    found = record_of(context)
    assert (servers.done, found.outcome) == (["ask"], Outcome.REFUSED)
    assert nothing_is_held(context)
    assert found.closed_at is not None
    assert incident_pages([found], found.closed_at + timedelta(minutes=5)) == []
    result = finish(context, refusal="kafka-1 is down.")
    assert (result.state, servers.done) == (ReplacementState.REFUSED, ["ask"])


@pytest.mark.parametrize("approved_by", [None, "ann"])
def test_a_protected_node_is_stopped_only_after_an_approval_on_record(
    context: Context, servers: Servers, approved_by: str | None
) -> None:
    nodes = {**context.fleet.nodes, NODE: replace(context.fleet.node(NODE), protected=True)}
    guarded = replace(context, fleet=replace(context.fleet, nodes=nodes))
    if approved_by is None:
        with pytest.raises(GuardRefused, match="nobody approved"):
            drain_node(guarded)
        assert "stop" not in servers.done
        return
    drain_node(guarded, approved_by=approved_by)
    approvals = [entry.data for entry in record_of(guarded).entries if "approved" in entry.data]
    assert [(one["approved"], one["gates"]) for one in approvals] == [(RUN, ["protected"])]


@pytest.mark.parametrize("at", ["stop", "released"])
def test_a_drain_that_is_killed_goes_on_although_the_node_is_down(
    context: Context, servers: Servers, at: str
) -> None:
    servers.dies_at = at
    with pytest.raises(Killed):
        drain_node(context)
    servers.reasons = ["kafka-2 is not ready."]  # it is stopped
    assert steps.check_replacement(context, NODE, RUN) == []
    drain_node(context)
    assert servers.done.count("ask") == 1
    assert servers.done[-2:] == ["stop", "released"]
    assert len(context.store.read_incidents(5, node=NODE)) == 1


def test_a_node_that_another_run_works_on_is_left_alone(context: Context, servers: Servers) -> None:
    token = context.store.acquire_lease(NODE, WATCH, 60).token
    role = context.fleet.node(NODE).role
    opened = context.store.open_incident(
        NODE, token, role=role, holder=WATCH, first_failed_at=NOW, detected_at=NOW
    )
    with pytest.raises(LeaseHeld):
        drain_node(context)
    context.store.give_back(NODE, WATCH)
    with pytest.raises(GuardRefused, match=opened.id):
        drain_node(context)
    assert servers.done == []
    assert context.store.read_incident(opened.id).holder == WATCH
    assert nothing_is_held(context)


def test_a_run_that_is_gone_keeps_no_watch_away(context: Context, servers: Servers) -> None:
    drain_node(context)
    assert context.store.read_maintenance(NODE)
    lapse(context.store, NODE)
    assert context.store.read_maintenance(NODE) == []
    token = context.store.acquire_lease(NODE, WATCH, 60, fresh_token=True).token
    role = context.fleet.node(NODE).role
    taken = context.store.open_incident(
        NODE, token, role=role, holder=WATCH, first_failed_at=NOW, detected_at=NOW
    )
    assert taken.id == record_of(context).id, "the watch continues the same incident"
    assert context.store.repair_budget(taken.id).maintenance == ()


def test_a_drained_node_that_was_not_fenced_is_started_again(context: Context, servers: Servers) -> None:
    drain_node(context)
    result = finish(context)
    assert servers.done[-1] == "start"
    assert result.state is ReplacementState.FAILED
    assert nothing_is_held(context)
    context.store.acquire_lease(NODE, RUN, 60)  # a flag that was only out of force would count again
    assert context.store.read_maintenance(NODE) == []


def test_a_fenced_node_is_not_started_again(context: Context, servers: Servers) -> None:
    drain_node(context)
    with context.step(RecoveryRef(record_of(context).id, NODE, RUN), "fence"):
        pass
    finish(context)
    assert "start" not in servers.done
    assert nothing_is_held(context)


def test_a_node_that_its_watch_works_on_by_now_is_not_started(context: Context, servers: Servers) -> None:
    drain_node(context)
    lapse(context.store, NODE)
    context.store.acquire_lease(NODE, WATCH, 60)
    finish(context)
    assert "start" not in servers.done
    lease = context.store.read_lease(NODE)
    assert lease is not None
    assert lease.holder == WATCH


def test_a_node_that_does_not_start_again_is_left_to_its_watch(context: Context, servers: Servers) -> None:
    drain_node(context)
    servers.stuck = True
    assert finish(context).state is ReplacementState.FAILED
    assert nothing_is_held(context)


def test_a_replacement_given_up_after_the_drain_is_closed_without_a_page(
    context: Context, servers: Servers
) -> None:
    drain_node(context)
    found = journal(record_of(context), "confirm", "kafka-2 is down", verdict="process_down")
    given_up = journal(found, "guard", "given up: kafka-1 is down", given_up=True)
    closed = journal(given_up, "stand_down", mark="end")
    assert report.conclude_incident(closed, RUN) == (Outcome.REFUSED, "given up: kafka-1 is down")
    assert incident_pages([replace(closed, outcome=Outcome.REFUSED)], NOW + timedelta(minutes=5)) == []


def test_a_second_run_after_the_end_is_a_replacement_of_its_own(context: Context, servers: Servers) -> None:
    drain_node(context)
    first = record_of(context)
    lease = context.store.read_lease(NODE)
    assert lease is not None
    context.store.begin_attempt(
        first.id, lease.token, Action.REBUILD_NODE, key=RUN, reason="asked for", refusals=lambda _: []
    )
    context.store.close_incident(first.id, lease.token, Outcome.HEALED, "kafka-2 leads a partition")
    assert finish(context).state is ReplacementState.REPLACED
    servers.reasons = ["kafka-1 is down."]
    assert steps.check_replacement(context, NODE, RUN) == ["kafka-1 is down."]
    with pytest.raises(GuardRefused):
        drain_node(context)
    assert record_of(context).id != first.id

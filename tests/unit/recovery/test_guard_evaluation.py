"""What a person's request and approval get, with a store of one incident and guards that say what they are told."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, IncidentClosed, NodeReturned
from kintsugi.core.fleet import Role, load_fleet
from kintsugi.core.incident import Action, Incident, JournalEntry
from kintsugi.core.observation import ProbeResult
from kintsugi.operations.context import RecoveryRef
from kintsugi.recovery import guard_evaluation, kill_permission
from kintsugi.recovery.common_cause import OtherNode
from kintsugi.recovery.escalation import Decision
from kintsugi.recovery.guard_model import Guard, GuardFacts, GuardResult, Limits
from tests.fixtures_incidents import T0

WATCH = RecoveryRef("i-1", "kafka-2", "watch_kafka-2/run-1")
HAND = RecoveryRef("i-1", "kafka-2", "recover_node/manual-1")


@dataclass
class Doors:
    """A runtime whose store holds one incident; ``step`` writes into its journal."""

    incident_: Incident
    fleet: Any = field(default_factory=load_fleet)

    @property
    def store(self) -> Doors:
        return self

    def read_incident(self, _id: str) -> Incident:
        return self.incident_

    def repair_budget(self, _id: str) -> None:
        return None

    def node(self, ref: RecoveryRef) -> Any:
        return self.fleet.node(ref.node)

    @contextmanager
    def step(self, ref: RecoveryRef, name: str) -> Iterator[Any]:
        context = self

        class Step:
            token = 7

            def note(self, message: str, **data: Any) -> None:
                context.write(name, message, **{"run": ref.holder} | data)

        yield Step()

    def write(self, step: str, message: str = "", **data: Any) -> None:
        at = T0 + timedelta(seconds=len(self.incident_.entries))
        entries = (*self.incident_.entries, JournalEntry(at, step, message, data))
        self.incident_ = replace(self.incident_, entries=entries)

    def close(self) -> None:
        raise IncidentClosed("the incident is closed")

    def confirmed(
        self, ref: RecoveryRef, verdict: str, *, requested: str = "auto", dry_run: bool = False
    ) -> None:
        self.write(
            "confirm", verdict=verdict, requested=requested, dry_run=dry_run, volume_intact=True, heard_at=None,
            run=ref.holder,
        )  # fmt: skip


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Doors:
    found = Doors(Incident("i-1", "kafka-2", Role.KAFKA, T0, T0, T0, WATCH.holder))
    decision = Decision(Action.REBUILD, "a new node and a new volume")
    monkeypatch.setattr(guard_evaluation, "_decide_next", lambda *_, **__: decision)
    facts = SimpleNamespace(with_ledger=lambda ledger: None, common_cause=lambda: None)
    monkeypatch.setattr(guard_evaluation, "current_facts", lambda *_: facts)
    monkeypatch.setattr(guard_evaluation, "limits_in_force", lambda _: None)
    return found


def refuse(monkeypatch: pytest.MonkeyPatch, *gates: Guard) -> None:
    ruling = GuardResult(False, tuple(gate.value for gate in gates), frozenset(gates))
    monkeypatch.setattr(guard_evaluation, "evaluate_action", lambda *_, **__: ruling)


def test_a_person_who_asks_for_an_act_gets_the_guards_answer_also_for_a_partitioned_node(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, Guard.COPIES)
    context.confirmed(HAND, "partitioned", requested="rebuild")
    assert guard_evaluation.evaluate_guards(context, HAND) == ["archive_logs", "ask_a_human"]  # type: ignore[arg-type]


def test_an_approval_opens_the_gates_that_were_shown_and_none_of_a_later_run(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.confirmed(WATCH, "host_lost")
    refuse(monkeypatch, Guard.BUDGET)
    guard_evaluation.evaluate_guards(context, WATCH)  # type: ignore[arg-type]
    context.confirmed(HAND, "host_lost", requested="rebuild")
    refuse(monkeypatch, Guard.COPIES, Guard.PENDING)
    guard_evaluation.evaluate_guards(context, HAND)  # type: ignore[arg-type]
    opened: list[Guard] = []
    monkeypatch.setattr(guard_evaluation, "_begin_attempt", lambda *_, approved: opened.extend(approved))
    assert guard_evaluation.choose_path(context, WATCH, "olga") == "plan"  # type: ignore[arg-type]
    assert opened == [Guard.BUDGET]
    assert guard_evaluation.refusal_reasons(context, WATCH) == ["budget"]  # type: ignore[arg-type]


def test_a_dry_run_meanwhile_does_not_turn_an_approved_repair_into_a_plan(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.confirmed(WATCH, "host_lost")
    refuse(monkeypatch, Guard.BUDGET)
    guard_evaluation.evaluate_guards(context, WATCH)  # type: ignore[arg-type]
    context.confirmed(HAND, "host_lost", dry_run=True)
    monkeypatch.setattr(guard_evaluation, "_begin_attempt", lambda *_, approved: None)
    assert guard_evaluation.choose_path(context, WATCH, "olga") == "plan"  # type: ignore[arg-type]
    assert guard_evaluation.choose_path(context, HAND, None) == "show_plan"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "path"), [(NodeReturned, "rejoin"), (GuardRefused, None), (IncidentClosed, None)]
)
def test_a_node_that_answers_before_its_repair_begins_is_only_proven(
    context: Doors, monkeypatch: pytest.MonkeyPatch, error: type[GuardRefused], path: str | None
) -> None:
    def begin(*_: Any, **__: Any) -> None:
        raise error("kafka-2 answered 1 s ago")

    monkeypatch.setattr(guard_evaluation, "_begin_attempt", begin)
    context.confirmed(WATCH, "host_lost")
    if path is None:
        with pytest.raises(error):
            guard_evaluation.choose_path(context, WATCH, None)  # type: ignore[arg-type]
    else:
        assert guard_evaluation.choose_path(context, WATCH, None) == path  # type: ignore[arg-type]


def test_a_closed_incident_is_not_taken_for_a_node_that_returned(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = SimpleNamespace(service=ProbeResult.OK, planned=False)
    monkeypatch.setattr(guard_evaluation, "current_facts", lambda *_: facts)
    monkeypatch.setattr(Doors, "begin_attempt", lambda *_, **__: context.close(), raising=False)
    context.confirmed(WATCH, "host_lost")
    with pytest.raises(IncidentClosed):
        guard_evaluation.choose_path(context, WATCH, None)  # type: ignore[arg-type]


def test_the_journal_names_the_zone_that_failed(context: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    since = now - timedelta(seconds=6)
    neighbour = OtherNode(
        "cassandra-2", Role.CASSANDRA, False, running=True, silent_since=since, zone="north"
    )
    facts = GuardFacts(
        "kafka-2",
        Role.KAFKA,
        now,
        service=ProbeResult.TIMEOUT,
        first_failed_at=since,
        running=True,
        others=(neighbour,),
        zone="north",
    )
    monkeypatch.setattr(guard_evaluation, "current_facts", lambda *_: facts)
    monkeypatch.setattr(guard_evaluation, "limits_in_force", lambda _: Limits())
    monkeypatch.setattr(guard_evaluation, "PATIENCE_S", 0.0)
    monkeypatch.setattr(guard_evaluation, "_confirm_again", lambda *_: None)
    context.confirmed(WATCH, "hung")
    guard_evaluation.evaluate_guards(context, WATCH)  # type: ignore[arg-type]
    answer = context.incident_.entries[-1]
    assert answer.data["common_cause"] == {
        "cause": "zone",
        "zone": "north",
        "nodes": ["cassandra-2", "kafka-2"],
    }
    assert "zone north" in answer.message


# --- a replacement on purpose -----------------------------------------------------------------------------

REPLACEMENT = RecoveryRef("i-1", "kafka-2", "replace_node/manual-1")


class Evaluated:
    """Evaluates no guard; notes what is evaluated, and answers what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *gates: Guard) -> None:
        self.gates = gates
        self.calls: list[tuple[Action, list[Guard]]] = []
        for asking in (guard_evaluation, kill_permission):
            monkeypatch.setattr(asking, "evaluate_action", self)

    def __call__(self, action: Action, *_: Any, approved: Collection[Guard]) -> GuardResult:
        self.calls.append((action, list(approved)))
        left = frozenset(self.gates) - set(approved)
        return GuardResult(not left, tuple(gate.value for gate in left), left)


def test_a_replacement_asks_nobody_while_its_node_is_down_and_pages_nobody(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    Evaluated(monkeypatch, Guard.COPIES)
    context.confirmed(REPLACEMENT, "process_down", requested="rebuild_node")
    assert guard_evaluation.evaluate_guards(context, REPLACEMENT) == ["stand_down"]  # type: ignore[arg-type]
    (entry,) = [one for one in context.incident_.entries if one.step == "guard"]
    assert entry.data["given_up"]
    assert not {"refused", "waiting"} & set(entry.data)


@pytest.mark.parametrize("ref", [REPLACEMENT, HAND])
def test_a_replacement_is_judged_as_if_it_lost_the_volume(
    context: Doors, monkeypatch: pytest.MonkeyPatch, ref: RecoveryRef
) -> None:
    """The old node can still be started, so it is not destroyed while one of its peers is down."""
    decision = Decision(Action.REBUILD_NODE, "a new node")
    monkeypatch.setattr(guard_evaluation, "_decide_next", lambda *_, **__: decision)
    seen = Evaluated(monkeypatch)
    context.confirmed(ref, "process_down", requested="rebuild_node")
    guard_evaluation.evaluate_guards(context, ref)  # type: ignore[arg-type]
    context.write("attempt", action="rebuild_node", key=ref.holder)
    kill_permission._reevaluate_guards(context, ref)  # type: ignore[arg-type]
    expected = Action.REBUILD if ref is REPLACEMENT else Action.REBUILD_NODE
    assert [action for action, _ in seen.calls] == [expected] * 2


def test_what_a_person_approved_before_the_drain_is_not_asked_again(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Evaluated(monkeypatch, Guard.PROTECTED)
    context.write("drain", approved=REPLACEMENT.holder, gates=["protected"], run=REPLACEMENT.holder)
    context.confirmed(REPLACEMENT, "process_down", requested="rebuild")
    assert guard_evaluation.evaluate_guards(context, REPLACEMENT) == ["archive_logs", "decide"]  # type: ignore[arg-type]
    assert [approved for _, approved in seen.calls] == [[Guard.PROTECTED]]
    seen.gates = (Guard.PROTECTED, Guard.PENDING)
    assert guard_evaluation.evaluate_guards(context, REPLACEMENT) == ["stand_down"]  # type: ignore[arg-type]


def test_a_replacement_that_is_refused_at_its_begin_is_given_up_too(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any, **__: Any) -> None:
        raise GuardRefused("kafka-1 is down")

    monkeypatch.setattr(guard_evaluation, "_begin_attempt", begin)
    for ref in (HAND, REPLACEMENT):
        context.confirmed(ref, "process_down", requested="rebuild")
        with pytest.raises(GuardRefused):
            guard_evaluation.choose_path(context, ref, None)  # type: ignore[arg-type]
    runs = [one.data["run"] for one in context.incident_.entries if "given_up" in one.data]
    assert runs == [REPLACEMENT.holder]


def test_its_attempt_begins_only_while_its_peers_are_complete(
    context: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*_: Any, refusals: Any, **__: Any) -> None:
        refusals(None)

    decision = Decision(Action.REBUILD_NODE, "a new node")
    monkeypatch.setattr(guard_evaluation, "_decide_next", lambda *_, **__: decision)
    monkeypatch.setattr(Doors, "begin_attempt", begin, raising=False)
    seen = Evaluated(monkeypatch)
    for ref in (REPLACEMENT, HAND):
        context.confirmed(ref, "process_down", requested="rebuild_node")
        guard_evaluation.choose_path(context, ref, None)  # type: ignore[arg-type]
    assert [action for action, _ in seen.calls] == [Action.REBUILD, Action.REBUILD_NODE]

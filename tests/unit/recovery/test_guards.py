"""Which guard refuses which action, in which words, and who may open it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kintsugi.core.incident import Action
from kintsugi.core.observation import NodeView, ProbeResult, ServiceProcess
from kintsugi.recovery.common_cause import Starvation
from kintsugi.recovery.guard_model import Guard, GuardFacts, Limits, ReplicaCounts
from kintsugi.recovery.guards import evaluate_action
from tests.fixtures_guard_facts import UNUSED_BUDGET
from tests.unit.recovery.guard_cases import (
    ALONE,
    BACK,
    BOTH,
    CASSANDRA,
    ENDED,
    EVERY,
    HUNG,
    KAFKA,
    MISPLACED,
    NODE,
    NOW,
    RESTART,
    SPARK,
    STUCK,
    UNNAMED,
    WELL,
    ago,
    cassandra,
    kafka,
    ledger,
    silent,
)


@pytest.mark.parametrize("facts", [CASSANDRA, KAFKA, SPARK], ids=lambda facts: facts.node)
@pytest.mark.parametrize("action", [action for action in Action if action is not Action.AUTO])
def test_a_dead_node_in_a_calm_fleet_may_be_repaired_in_any_way(facts: GuardFacts, action: Action) -> None:
    assert evaluate_action(action, facts).reasons == ()
    assert evaluate_action(action, facts).allowed


REFUSALS = [
    # what is known, what is to be done, and the only guard that refuses it
    (
        ledger(maintenance=("cassandra-2 is in maintenance until it is cleared: disks (ada).",)),
        RESTART,
        Guard.MAINTENANCE,
    ),
    (ledger(maintenance=("the whole fleet is in maintenance",)), NODE, Guard.MAINTENANCE),
    (ledger(repairs_of_node=6), RESTART, Guard.BUDGET),
    (ledger(repairs_of_fleet=30), BACK, Guard.BUDGET),
    (replace(CASSANDRA, ledger=None), NODE, Guard.STORE),
    (replace(CASSANDRA, ledger=None), BOTH, Guard.STORE),
    (replace(CASSANDRA, protected=True), NODE, Guard.PROTECTED),
    (replace(CASSANDRA, protected=None), BOTH, Guard.PROTECTED),
    # wrong kill
    (replace(CASSANDRA, service=ProbeResult.OK), NODE, Guard.WRONG_KILL),
    (replace(SPARK, service=ProbeResult.OK), BOTH, Guard.WRONG_KILL),
    (replace(CASSANDRA, service=None), BOTH, Guard.WRONG_KILL),
    (replace(CASSANDRA, last_seen_at=ago(4.9)), BOTH, Guard.WRONG_KILL),
    (replace(CASSANDRA, last_seen_at=ago(5)), NODE, Guard.WRONG_KILL),
    # a peer heard it while it was asked, and the look from the node took 7 s more
    (replace(HUNG, observed_at=ago(9), last_seen_at=ago(8)), NODE, Guard.WRONG_KILL),
    (replace(HUNG, observed_at=ago(9), last_seen_at=ago(8)), RESTART, Guard.WRONG_KILL),
    # it answers no client, and is a voter or a replica in sync for its peers
    (
        replace(kafka(current=1), view=STUCK, first_failed_at=ago(31), last_seen_at=ago(2)),
        RESTART,
        Guard.COPIES,
    ),
    (replace(kafka(current=1), view=STUCK, first_failed_at=ago(31), last_seen_at=ago(2)), NODE, Guard.COPIES),
    (
        replace(cassandra(others_down=1), view=STUCK, first_failed_at=ago(31), last_seen_at=ago(2)),
        RESTART,
        Guard.COPIES,
    ),
    # no init said that no process runs, so one may start
    (replace(CASSANDRA, sick=9, ssh=ProbeResult.OK, view=UNNAMED), RESTART, Guard.BREAKER),
    (replace(CASSANDRA, last_seen_at=None, first_failed_at=ago(3)), NODE, Guard.WRONG_KILL),
    (
        replace(CASSANDRA, last_seen_at=None, first_failed_at=None),
        BOTH,
        Guard.WRONG_KILL,
    ),
    (replace(CASSANDRA, observed_at=ago(11), last_seen_at=ago(17)), BOTH, Guard.WRONG_KILL),
    (replace(CASSANDRA, observed_at=None), NODE, Guard.WRONG_KILL),
    # breaker
    (replace(CASSANDRA, sick=5), BOTH, Guard.BREAKER),
    (replace(CASSANDRA, sick=5, ssh=ProbeResult.TIMEOUT), NODE, Guard.BREAKER),
    (replace(CASSANDRA, sick=None), BOTH, Guard.BREAKER),
    (replace(CASSANDRA, fleet_size=None), BOTH, Guard.BREAKER),
    # last copy and quorum, Kafka
    (kafka(partitions=ALONE), BOTH, Guard.COPIES),
    (
        kafka(partitions={f"t-{n}": ReplicaCounts(frozenset({1})) for n in range(5)}),
        BOTH,
        Guard.COPIES,
    ),
    (
        kafka(partitions={"trades-1": ReplicaCounts(frozenset({1, 2}))}, live=frozenset({1, 3})),
        BOTH,
        Guard.COPIES,
    ),
    (kafka(partitions={"trades-1": ReplicaCounts(frozenset(), frozenset())}), BOTH, Guard.COPIES),
    (kafka(partitions=None), BOTH, Guard.COPIES),
    (kafka(live=None), BOTH, Guard.COPIES),
    (kafka(current=1), BOTH, Guard.COPIES),
    (kafka(current=None), BOTH, Guard.COPIES),
    (replace(kafka(partitions=ALONE), volume_intact=False), BOTH, Guard.COPIES),
    (replace(kafka(partitions=ALONE), volume_intact=False), BOTH, Guard.COPIES),
    # last copy and quorum, Cassandra
    (cassandra(replication=1), BOTH, Guard.COPIES),
    (cassandra(replication=None), BOTH, Guard.COPIES),
    (cassandra(others_down=1), BOTH, Guard.COPIES),
    (cassandra(others_down=None), BOTH, Guard.COPIES),
    (cassandra(replication=5, others_down=2), BOTH, Guard.COPIES),
    (
        ledger(pending=frozenset({"cassandra-1"})),
        BOTH,
        Guard.PENDING,
    ),
    # a restart of a node that serves takes it away for a while
    (
        replace(cassandra(others_down=1), service=ProbeResult.OK, planned=True),
        RESTART,
        Guard.COPIES,
    ),
    (
        replace(kafka(current=1), service=ProbeResult.OK, planned=True),
        BACK,
        Guard.COPIES,
    ),
    # on a wrong port it still counts for the quorum
    (replace(kafka(current=1), running=True, view=MISPLACED), RESTART, Guard.COPIES),
    # a restart kills as well
    (replace(CASSANDRA, service=ProbeResult.OK), RESTART, Guard.WRONG_KILL),
    (replace(HUNG, last_seen_at=ago(4.9)), RESTART, Guard.WRONG_KILL),
    (replace(HUNG, sick=5), RESTART, Guard.BREAKER),
    (
        replace(HUNG, view=NodeView(ServiceProcess(7, 1), 9.0, True, True, ProbeResult.OK)),
        RESTART,
        Guard.WRONG_KILL,
    ),
    (replace(HUNG, view=STUCK, first_failed_at=ago(29), last_seen_at=ago(1)), RESTART, Guard.WRONG_KILL),
    # a role without peers
    (replace(SPARK, others=(WELL,), last_seen_at=ago(29)), NODE, Guard.WRONG_KILL),
    # a refused connection is no proof, and what runs may live
    (replace(CASSANDRA, sick=9), NODE, Guard.BREAKER),
    (replace(CASSANDRA, sick=9, running=True), NODE, Guard.BREAKER),
    # a common cause
    (
        replace(HUNG, starvation=Starvation("It waits for the processor.", ago(-9))),
        RESTART,
        Guard.COMMON_CAUSE,
    ),
    (
        replace(CASSANDRA, starvation=Starvation("It waits for the processor.", ago(-9))),
        NODE,
        Guard.COMMON_CAUSE,
    ),
    (replace(HUNG, others=(silent(5.5),)), RESTART, Guard.COMMON_CAUSE),
    (replace(CASSANDRA, others=(silent(5.5),)), BOTH, Guard.COMMON_CAUSE),
    # one node of a role at a time
    (ledger(HUNG, role_attempts={"cassandra-1": ago(59)}), RESTART, Guard.ONE_OF_ROLE),
    (ledger(role_attempts={"cassandra-1": ago(1)}), NODE, Guard.ONE_OF_ROLE),
]


@pytest.mark.parametrize(("facts", "action", "guard"), REFUSALS)
def test_one_guard_refuses_for_one_reason(facts: GuardFacts, action: Action, guard: Guard) -> None:
    ruling = evaluate_action(action, facts)
    assert not ruling.allowed
    assert ruling.gates == {guard}
    assert len(ruling.reasons) == 1


@pytest.mark.parametrize(
    ("facts", "action", "known"),
    [
        (ledger(maintenance=("new disks (ada)",)), RESTART, ("new disks (ada)",)),
        (ledger(repairs_of_node=6), RESTART, ("cassandra-2", "6")),
        (ledger(repairs_of_fleet=30), BACK, ("30",)),
        (replace(CASSANDRA, last_seen_at=ago(4.9)), BOTH, ("cassandra-2", "4.9 s", "5 s")),
        (replace(SPARK, others=(WELL,), last_seen_at=ago(29)), NODE, ("spark-worker-1", "29.0 s", "30 s")),
        (replace(CASSANDRA, sick=5), BOTH, ("5 of 9", "50%")),
        (kafka(partitions={f"t-{n}": ReplicaCounts(frozenset({1})) for n in range(5)}), BOTH,
         ("kafka-1", "t-0", "t-1", "t-2", "2 more")),
        (kafka(current=1), BOTH, ("kafka-1", "1 of 3", "2")),
        (cassandra(replication=5, others_down=2), BOTH, ("cassandra-2", "2", "5", "1")),
        (ledger(pending=frozenset({"cassandra-1"})), BOTH, ("cassandra-1", "cassandra-2")),
        (replace(HUNG, starvation=Starvation("It waits.", ago(-9))), RESTART, ("It waits.",)),
        (replace(HUNG, others=(silent(5.5),)), RESTART, ("cassandra-1", "cassandra-2")),
        (ledger(HUNG, role_attempts={"cassandra-1": ago(59)}), RESTART, ("cassandra-1", "cassandra-2")),
    ],
)  # fmt: skip
def test_a_reason_names_what_it_is_about(facts: GuardFacts, action: Action, known: tuple[str, ...]) -> None:
    (reason,) = evaluate_action(action, facts).reasons
    assert [value for value in known if value not in reason] == []


ALLOWED = [
    (replace(CASSANDRA, sick=9, running=False), NODE, "a power cut: all proven dead, volumes kept"),
    (replace(CASSANDRA, sick=None, running=False), NODE, "proven dead, volume kept"),
    (replace(CASSANDRA, sick=9, ssh=ProbeResult.OK, view=ENDED), RESTART, "no process is there to be killed"),
    (
        replace(CASSANDRA, last_seen_at=ago(1), running=False),
        BOTH,
        "heard just now, but its platform knows it dead",
    ),
    (
        replace(CASSANDRA, running=False, others=(silent(5.5),)),
        NODE,
        "proven dead, whoever fell silent with it",
    ),
    (
        replace(HUNG, others=(silent(45),), first_failed_at=ago(45)),
        RESTART,
        "a stall would have passed by now",
    ),
    (replace(HUNG, others=(silent(25),)), RESTART, "what fell silent long before has another cause"),
    (replace(HUNG, others=(replace(silent(5.5), running=False),)), RESTART, "the other one is dead"),
    (replace(HUNG, starvation=Starvation("It waited for the processor.", NOW)), RESTART, "starved no more"),
    (
        replace(HUNG, view=STUCK, first_failed_at=ago(30), last_seen_at=ago(1)),
        RESTART,
        "stuck: gossip is no service",
    ),
    (
        replace(kafka(current=1), view=STUCK, first_failed_at=ago(31), last_seen_at=ago(31)),
        RESTART,
        "stuck, and its peers hear nothing of it: the quorum has no vote of it to lose",
    ),
    (
        replace(CASSANDRA, observed_at=ago(30), running=False),
        NODE,
        "proven dead: to ask a large fleet took longer than an observation counts",
    ),
    (
        replace(KAFKA, running=True, ssh=ProbeResult.OK, view=MISPLACED, last_seen_at=ago(1)),
        RESTART,
        "on a wrong port: its peers hear it, and no client can reach it where it belongs",
    ),
    (replace(SPARK, others=(WELL,), last_seen_at=ago(31.1)), NODE, "silent for 30 s"),
    (ledger(HUNG, role_attempts={"cassandra-1": ago(60)}), RESTART, "the other one had its time"),
    (
        replace(ledger(role_attempts={"cassandra-1": ago(1)}), running=False),
        NODE,
        "dead nodes of a role are started together",
    ),
    (replace(CASSANDRA, sick=4), BOTH, "4 of 9 is below half"),
    (replace(CASSANDRA, ledger=None), RESTART, "nothing known speaks against a restart"),
    (replace(CASSANDRA, protected=True), RESTART, "protected from destruction only"),
    (replace(CASSANDRA, last_seen_at=ago(6.001)), BOTH, "silent for more than 5 s"),
    (replace(CASSANDRA, last_seen_at=None, first_failed_at=ago(6.1)), BOTH, "never heard, but asked for 5 s"),
    (replace(CASSANDRA, service=ProbeResult.OK, planned=True), RESTART, "its peers can spare it"),
    (replace(kafka(partitions=ALONE), ledger=UNUSED_BUDGET), NODE, "the volume with the last copy is kept"),
    (
        kafka(partitions={"trades-1": ReplicaCounts(frozenset({1}), frozenset({2}))}),
        BOTH,
        "an eligible leader has it",
    ),
    (kafka(partitions={}), BOTH, "holds nothing"),
    (replace(cassandra(replication=1), service=ProbeResult.REFUSED), NODE, "the volume is kept"),
    (cassandra(replication=2), BOTH, "the other copy is up"),
    (cassandra(replication=5, others_down=1), BOTH, "five copies spare two"),
    (ledger(pending=frozenset({"cassandra-1"})), NODE, "the volume is kept"),
    (
        replace(ledger(pending=frozenset({"cassandra-1"})), volume_intact=False),
        BOTH,
        "nothing left to destroy",
    ),
]


@pytest.mark.parametrize(("facts", "action", "why"), ALLOWED)
def test_a_gate_stays_open_where_nothing_is_at_stake(facts: GuardFacts, action: Action, why: str) -> None:
    assert evaluate_action(action, facts).reasons == (), why


def test_all_reasons_are_given_not_just_the_first() -> None:
    reasons = evaluate_action(
        BOTH, replace(cassandra(others_down=2), service=ProbeResult.OK, protected=True)
    ).reasons
    assert len(reasons) == 3


def test_a_refusal_that_passes_says_when_to_ask_again() -> None:
    ruling = evaluate_action(BOTH, replace(CASSANDRA, last_seen_at=ago(2)))
    assert ruling.passing
    assert ruling.retry_at is not None
    later = replace(CASSANDRA, last_seen_at=ago(2), at=ruling.retry_at, observed_at=ruling.retry_at)
    assert evaluate_action(BOTH, later).allowed


@pytest.mark.parametrize(
    ("facts", "passing"),
    [
        (cassandra(others_down=1), True),
        (replace(CASSANDRA, sick=8), True),
        (ledger(pending=frozenset({"cassandra-1"})), True),
        (cassandra(replication=1), False),
        (ledger(repairs_of_node=6), False),
        (replace(CASSANDRA, protected=True, sick=8), False),
    ],
)
def test_waiting_is_worth_it_only_where_the_reason_can_go_away(facts: GuardFacts, passing: bool) -> None:
    assert evaluate_action(BOTH, facts).passing is passing


def test_limits_are_settings() -> None:
    strict = Limits(repairs_per_node_and_hour=1, sick_share=0.1, silence=timedelta(seconds=20))
    assert len(evaluate_action(BOTH, ledger(repairs_of_node=1), strict).reasons) == 3


def test_auto_is_not_an_action() -> None:
    assert not evaluate_action(Action.AUTO, CASSANDRA).allowed


def test_a_person_opens_every_gate_but_the_one_against_a_wrong_kill() -> None:
    worst = replace(kafka(partitions=ALONE, current=0), protected=True, sick=9, ledger=None)
    assert evaluate_action(BOTH, worst, approved=EVERY).allowed
    heard = replace(worst, last_seen_at=ago(1))
    for facts in (replace(worst, service=ProbeResult.OK), heard, replace(heard, running=True)):
        assert not evaluate_action(BOTH, facts, approved=EVERY).allowed


def test_a_person_opens_no_gate_that_was_not_asked_about() -> None:
    asked = evaluate_action(BOTH, ledger(repairs_of_node=6))
    assert asked.gates == {Guard.BUDGET}
    assert evaluate_action(BOTH, ledger(repairs_of_node=7), approved=asked.gates).allowed
    by_now = replace(ledger(repairs_of_node=6), sick=8)
    assert evaluate_action(BOTH, by_now, approved=asked.gates).gates == {Guard.BREAKER}

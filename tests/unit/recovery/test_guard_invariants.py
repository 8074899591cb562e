"""What no facts allow: to kill a live node, to act on a common cause, to destroy the last copy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, RepairBudget
from kintsugi.core.observation import NodeView, ProbeResult
from kintsugi.recovery.common_cause import Starvation
from kintsugi.recovery.guard_model import CassandraFacts, Guard, GuardFacts, KafkaFacts, ReplicaCounts
from kintsugi.recovery.guards import evaluate_action
from tests.unit.recovery.guard_cases import (
    BACK,
    BOTH,
    ENDED,
    EVERY,
    MISPLACED,
    NODE,
    NOW,
    RESTART,
    STUCK,
    WELL,
    ago,
    silent,
)

maybe_time = st.none() | st.floats(0, 20).map(ago)
zones = st.sampled_from([None, "a", "b"])
any_facts = st.builds(
    GuardFacts,
    node=st.just("kafka-1"),
    role=st.sampled_from(Role),
    at=st.just(NOW),
    observed_at=maybe_time,
    service=st.none() | st.sampled_from(ProbeResult),
    ssh=st.none() | st.sampled_from(ProbeResult),
    last_seen_at=maybe_time,
    first_failed_at=maybe_time,
    volume_intact=st.sampled_from([None, True, False]),
    fleet_size=st.none() | st.just(9),
    sick=st.none() | st.integers(0, 9),
    protected=st.sampled_from([None, True, False]),
    running=st.sampled_from([None, True, False]),
    planned=st.booleans(),
    view=st.sampled_from([NodeView(), STUCK, ENDED, MISPLACED, replace(STUCK, answer=ProbeResult.OK)]),
    others=st.lists(
        st.builds(
            replace,
            st.sampled_from([WELL, silent(6), silent(50), replace(silent(6), running=False)]),
            zone=zones,
        )
    ).map(tuple),
    zone=zones,
    starvation=st.none() | st.builds(Starvation, st.just("starved"), st.floats(-20, 20).map(ago)),
    ledger=st.none()
    | st.builds(
        RepairBudget,
        maintenance=st.sampled_from([(), ("upgrade",)]),
        repairs_of_node=st.integers(0, 8),
        repairs_of_fleet=st.integers(0, 32),
        pending=st.sampled_from([frozenset(), frozenset({"kafka-2"})]),
        role_attempts=st.sampled_from([{}, {"kafka-2": ago(10)}, {"kafka-2": ago(70)}]),
    ),
    kafka=st.none()
    | st.builds(
        KafkaFacts,
        node_id=st.just(1),
        partitions=st.none()
        | st.dictionaries(
            st.sampled_from(["t-0", "t-1"]),
            st.builds(ReplicaCounts, st.frozensets(st.integers(1, 3)), st.frozensets(st.integers(1, 3))),
        ),
        live=st.none() | st.frozensets(st.integers(1, 3)),
        voters=st.none() | st.just(3),
        current=st.none() | st.integers(0, 2),
    ),
    cassandra=st.none()
    | st.builds(CassandraFacts, st.none() | st.integers(1, 3), st.none() | st.integers(0, 2)),
)


@given(any_facts, st.sampled_from([RESTART, NODE, BOTH]), st.booleans())
def test_no_facts_allow_to_kill_a_live_node(facts: GuardFacts, action: Action, approved: bool) -> None:
    """Whoever approves: what anybody heard within 5 s is killed only where its platform knows that it is dead."""
    if not evaluate_action(action, facts, approved=EVERY if approved else ()).allowed:
        return
    if action is RESTART and (facts.planned or facts.process_ended or facts.proven_dead):
        return  # somebody asked for it, or there is nothing to kill
    assert facts.service not in (None, ProbeResult.OK)
    assert facts.view.answer is not ProbeResult.OK
    if facts.running is not False and not facts.stuck and not facts.view.misplaced:
        assert facts.silent_since is not None
        assert facts.observed_at is not None
        assert facts.observed_at - facts.silent_since > timedelta(seconds=5)


@given(any_facts, st.sampled_from([RESTART, BACK, NODE, BOTH]))
def test_no_facts_allow_to_kill_what_runs_while_a_common_cause_is_likely(
    facts: GuardFacts, action: Action
) -> None:
    ends_nothing = facts.proven_dead or (action is RESTART and facts.process_ended)
    if facts.common_cause() is None or ends_nothing or (action is BACK and facts.process_ended):
        return
    assert Guard.COMMON_CAUSE in evaluate_action(action, facts).gates


@given(any_facts)
def test_no_facts_allow_to_destroy_the_last_copy(facts: GuardFacts) -> None:
    if not evaluate_action(BOTH, facts).allowed:
        return
    if facts.role is Role.KAFKA:
        assert facts.kafka is not None
        assert facts.kafka.partitions is not None
        assert facts.kafka.live is not None
        for copies in facts.kafka.partitions.values():
            assert (copies.in_sync | copies.eligible) & (facts.kafka.live - {1})
        assert (facts.kafka.current or 0) >= 2
    if facts.role is Role.CASSANDRA:
        assert facts.cassandra is not None
        assert (facts.cassandra.replication or 0) >= 2
        assert facts.cassandra.others_down == 0


@given(any_facts)
def test_knowing_less_never_allows_to_destroy_more(facts: GuardFacts) -> None:
    for unknown in ("observed_at", "service", "protected", "ledger"):
        assert not evaluate_action(BOTH, replace(facts, **{unknown: None})).allowed  # type: ignore[arg-type]


@given(any_facts)
def test_who_may_destroy_the_volume_may_destroy_the_node(facts: GuardFacts) -> None:
    if evaluate_action(BOTH, facts).allowed:
        assert evaluate_action(NODE, facts).allowed


@given(any_facts, st.sampled_from([RESTART, BACK, NODE, BOTH]))
def test_no_zone_allows_or_refuses_what_is_not_without_it(facts: GuardFacts, action: Action) -> None:
    """A zone names a cause. Each node of it is still acted upon by its own facts alone."""
    without = replace(facts, zone=None, others=tuple(replace(other, zone=None) for other in facts.others))
    with_zone, plain = evaluate_action(action, facts), evaluate_action(action, without)
    assert (with_zone.allowed, with_zone.gates, with_zone.retry_at) == (
        plain.allowed,
        plain.gates,
        plain.retry_at,
    )


@given(any_facts, st.sampled_from([RESTART, NODE, BOTH]))
def test_nothing_that_runs_is_killed_while_its_zone_is_silent(facts: GuardFacts, action: Action) -> None:
    neighbour = replace(silent(6), role=Role.SPARK_WORKER, name="spark-worker-9", zone="a")
    zoned = replace(
        facts, zone="a", first_failed_at=ago(6), others=(neighbour,), running=True, starvation=None
    )
    cause = zoned.common_cause()
    assert cause is not None
    assert cause.zone == "a"
    if not (action is RESTART and zoned.process_ended):
        assert not evaluate_action(action, zoned).allowed

"""Which silences count as one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import Role
from kintsugi.recovery.common_cause import (
    HOLD,
    WINDOW,
    Cause,
    CommonCause,
    OtherNode,
    Starvation,
    find_common_cause,
)

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def other(
    name: str,
    silent_for_s: float | None,
    *,
    role: Role = Role.KAFKA,
    running: bool | None = True,
    zone: str | None = None,
) -> OtherNode:
    since = None if silent_for_s is None else ago(silent_for_s)
    return OtherNode(name, role, answers=since is None, running=running, silent_since=since, zone=zone)


def find(
    silent_for_s: float, *others: OtherNode, starvation: Starvation | None = None, zone: str | None = None
) -> CommonCause | None:
    return find_common_cause(
        "kafka-1",
        Role.KAFKA,
        at=NOW,
        silent_since=ago(silent_for_s),
        others=others,
        starvation=starvation,
        zone=zone,
    )


@pytest.mark.parametrize(
    ("others", "cause", "nodes"),
    [
        ([other("kafka-2", 9)], Cause.ROLE, ("kafka-1", "kafka-2")),
        ([other("kafka-2", 24), other("kafka-3", None)], Cause.ROLE, ("kafka-1", "kafka-2")),
        (
            [other("kafka-2", 9), other("spark-worker-1", 8, role=Role.SPARK_WORKER)],
            Cause.FLEET,
            ("kafka-1", "kafka-2", "spark-worker-1"),
        ),
        ([other("kafka-2", 9, running=None)], Cause.ROLE, ("kafka-1", "kafka-2")),
    ],
)
def test_nodes_that_fall_silent_together_share_a_cause(
    others: list[OtherNode], cause: Cause, nodes: tuple[str, ...]
) -> None:
    found = find(9, *others)
    assert found is not None
    assert (found.cause, found.nodes) == (cause, nodes)


@pytest.mark.parametrize(
    "others",
    [
        [],
        [other("kafka-2", None)],
        [other("kafka-2", 9, running=False)],  # dead, not silent
        [other("kafka-2", 9 + WINDOW.total_seconds() + 0.1)],
    ],
)
def test_a_node_that_is_silent_alone_shares_none(others: list[OtherNode]) -> None:
    assert find(9, *others) is None


def test_a_shared_silence_is_held_since_the_last_that_fell_silent() -> None:
    found = find(20, other("kafka-2", 9))
    assert found is not None
    assert found.until == ago(9) + HOLD
    assert find(46, other("kafka-2", 45)) is None
    assert find(46, other("kafka-2", 44)) is not None


def test_starvation_comes_first_and_ends() -> None:
    starved = Starvation("kafka-1 waits for the processor.", ago(-5))
    found = find(9, other("kafka-2", 9), starvation=starved)
    assert found is not None
    assert (found.cause, found.until, found.reason) == (Cause.STARVED, starved.until, starved.detail)
    assert find(9, starvation=Starvation("was starved", NOW)) is None


@given(
    st.floats(0, 200),
    st.lists(st.tuples(st.floats(0, 200), st.sampled_from([True, None])), min_size=1, max_size=8),
)
def test_every_shared_silence_ends(own: float, silences: list[tuple[float, bool | None]]) -> None:
    """Whatever fell silent when: nobody is held for longer than the hold after the last of them."""
    others = [other(f"kafka-{n + 2}", s, running=running) for n, (s, running) in enumerate(silences)]
    found = find(own, *others)
    if found is not None:
        assert NOW < found.until <= max(ago(own), *(ago(s) for s, _ in silences)) + HOLD


WORKER, CASSANDRA = Role.SPARK_WORKER, Role.CASSANDRA


@pytest.mark.parametrize(
    ("zone", "others", "cause"),
    [
        # nodes of several roles
        ("a", [other("cassandra-1", 9, role=CASSANDRA, zone="a")], Cause.ZONE),
        (
            "a",
            [
                other("cassandra-1", 9, role=CASSANDRA, zone="a"),
                other("kafka-2", None, zone="b"),
                other(
                    "spark-worker-1", None, role=WORKER, zone="a"
                ),  # not all of a zone need to be silent yet
            ],
            Cause.ZONE,
        ),
        ("a", [other("cassandra-1", 9, role=CASSANDRA, zone="b")], Cause.FLEET),
        ("a", [other("cassandra-1", 9, role=CASSANDRA)], Cause.FLEET),
        (None, [other("cassandra-1", 9, role=CASSANDRA, zone="a")], Cause.FLEET),
        (None, [other("cassandra-1", 9, role=CASSANDRA)], Cause.FLEET),
        (
            "a",
            [
                other("cassandra-1", 9, role=CASSANDRA, zone="a"),
                other("cassandra-2", 9, role=CASSANDRA, zone="b"),
            ],
            Cause.FLEET,
        ),
        # of one role and one zone: the zone, unless another of its nodes answers
        ("a", [other("kafka-2", 9, zone="a"), other("kafka-3", None, zone="b")], Cause.ZONE),
        (
            "a",
            [other("kafka-2", 9, zone="a"), other("cassandra-1", 9, role=CASSANDRA, running=False, zone="a")],
            Cause.ZONE,
        ),
        (
            "a",
            [other("kafka-2", 9, zone="a"), other("cassandra-1", None, role=CASSANDRA, zone="a")],
            Cause.ROLE,
        ),
        ("a", [other("kafka-2", 9, zone="b")], Cause.ROLE),
        # who did not fall silent with the node says nothing of its zone
        (
            "a",
            [other("kafka-2", 9, zone="b"), other("cassandra-1", 60, role=CASSANDRA, zone="a")],
            Cause.ROLE,
        ),
    ],
)
def test_nodes_of_one_zone_that_fall_silent_together_share_the_zone(
    zone: str | None, others: list[OtherNode], cause: Cause
) -> None:
    found = find(9, *others, zone=zone)
    assert found is not None
    assert found.cause is cause
    assert found.zone == (zone if cause is Cause.ZONE else None)
    assert (f"zone {zone}" in found.reason) is (cause is Cause.ZONE)


def test_dead_nodes_of_a_zone_are_no_silence() -> None:
    assert find(9, other("cassandra-1", 9, role=CASSANDRA, running=False, zone="a"), zone="a") is None


any_other = st.builds(
    OtherNode,
    name=st.sampled_from(["kafka-2", "cassandra-1", "spark-worker-1"]),
    role=st.sampled_from([Role.KAFKA, CASSANDRA, WORKER]),
    answers=st.booleans(),
    running=st.sampled_from([True, False, None]),
    silent_since=st.none() | st.floats(0, 100).map(ago),
    zone=st.sampled_from([None, "a", "b"]),
)


@given(st.floats(0, 100), st.lists(any_other, max_size=5), st.sampled_from([None, "a", "b"]))
def test_a_zone_changes_the_name_of_a_cause_and_never_what_is_held(
    own: float, others: list[OtherNode], zone: str | None
) -> None:
    """With zones and without, the same nodes are held for the same time."""
    found, without = find(own, *others, zone=zone), find(own, *(replace(o, zone=None) for o in others))
    assert (found is None) is (without is None)
    if found is None or without is None:
        return
    assert (found.nodes, found.until) == (without.nodes, without.until)
    assert (found.zone is not None) is (found.cause is Cause.ZONE)
    if found.cause is Cause.ZONE:
        assert found.zone == zone
        assert {o.zone for o in others if not o.answers and o.name in found.nodes} >= {zone}
    else:
        assert found.cause is without.cause


@given(
    st.dictionaries(
        st.sampled_from(["kafka-1", "kafka-2", "cassandra-1", "cassandra-2", "spark-worker-1"]),
        st.floats(0, 7),
        min_size=2,
    ),
)
def test_every_node_of_a_silent_zone_sees_the_same_event(silences: dict[str, float]) -> None:
    """A zone is one event, from whichever of its nodes it is seen: one name, the same nodes, the same end."""
    role_of = {"k": Role.KAFKA, "c": CASSANDRA, "s": WORKER}
    zone = {
        name: other(name, silent, role=role_of[name[0]], zone="a") for name, silent in silences.items()
    } | {"kafka-3": other("kafka-3", None, zone="b")}
    seen = {
        find_common_cause(
            name,
            role_of[name[0]],
            at=NOW,
            silent_since=ago(silent),
            others=[node for node in zone.values() if node.name != name],
            zone="a",
        )
        for name, silent in silences.items()
    }
    (event,) = seen
    assert event is not None
    assert (event.cause, event.zone, set(event.nodes)) == (Cause.ZONE, "a", set(silences))


def test_of_many_nodes_the_first_are_named_and_the_rest_is_counted() -> None:
    few = find(9, *(other(f"kafka-{number}", 9) for number in range(2, 12)))
    many = find(9, *(other(f"kafka-{number}", 9) for number in range(2, 301)))
    assert few is not None
    assert many is not None
    assert all(name in few.reason for name in few.nodes)
    assert len(many.nodes) == 300
    assert "and 290 more nodes" in many.reason
    assert len(many.reason) < 400

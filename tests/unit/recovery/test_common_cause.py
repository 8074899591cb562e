"""Which silences count as one."""

from __future__ import annotations

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
    name: str, silent_for_s: float | None, *, role: Role = Role.KAFKA, running: bool | None = True
) -> OtherNode:
    since = None if silent_for_s is None else ago(silent_for_s)
    return OtherNode(name, role, answers=since is None, running=running, silent_since=since)


def find(silent_for_s: float, *others: OtherNode, starvation: Starvation | None = None) -> CommonCause | None:
    return find_common_cause(
        "kafka-1", Role.KAFKA, at=NOW, silent_since=ago(silent_for_s), others=others, starvation=starvation
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

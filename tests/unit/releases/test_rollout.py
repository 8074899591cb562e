"""The plan of a roll-out, by tables and by random histories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import load_fleet
from kintsugi.core.rollout_state import NodeRollout, NodeState
from kintsugi.releases.rollout import Move, next_move, nodes_to_roll_back, update_order, updated_nodes

W, T, P, F, R, S = (
    NodeState.WAITING,
    NodeState.TOUCHED,
    NodeState.PROVEN,
    NodeState.FAILED,
    NodeState.RETURNED,
    NodeState.STUCK,
)


def steps(*states: NodeState, same: str = "") -> list[NodeRollout]:
    """Steps of nodes a, b, c…; those named in ``same`` have nothing to change."""
    return [
        NodeRollout(name, () if name in same else ("/etc/x",), state)
        for name, state in zip("abcdefgh", states, strict=False)
    ]


def test_the_least_risky_role_goes_first_and_the_drivers_home_last() -> None:
    names = [node.name for node in update_order(load_fleet())]
    assert names == [
        "spark-worker-1", "spark-worker-2", "kafka-1", "kafka-2", "kafka-3",
        "cassandra-1", "cassandra-2", "cassandra-3", "spark-master-1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "move", "node"),
    [
        (steps(W, W, W), Move.UPDATE, "a"),
        (steps(W, W, W, same="a"), Move.RECORD, "a"),
        (steps(P, W, W), Move.UPDATE, "b"),
        (steps(P, T, W), Move.UPDATE, "b"),  # its task was killed
        (steps(W, T, W), Move.UPDATE, "b"),  # whatever the order says: nothing else before it is proven
        (steps(P, P, P), Move.BAKE, None),
        (steps(P, P, P, same="abc"), Move.BAKE, None),
        (steps(P, F, W), Move.ROLL_BACK, "b"),  # the sick one first
        (steps(P, R, W), Move.ROLL_BACK, "a"),  # then what it had been rolled out to before
        (steps(P, R, W, same="a"), Move.STOP, None),  # a was never restarted, so it isn't again
        (steps(R, R, W), Move.STOP, None),
        (steps(P, S, W), Move.STOP, None),  # one sick node of a role is enough
    ],
)
def test_the_next_move(given: list[NodeRollout], move: Move, node: str | None) -> None:
    turn = next_move(given)
    assert (turn.move, turn.node) == (move, node)
    assert turn.reason


@pytest.mark.parametrize(
    ("given", "move", "node"),
    [
        (steps(P, P, P), Move.ROLL_BACK, "c"),  # bad only as a whole: the last touched first
        (steps(P, P, T), Move.ROLL_BACK, "c"),
        (steps(P, T, W), Move.ROLL_BACK, "b"),
        (steps(W, W, W), Move.STOP, None),
        (steps(P, P, P, same="abc"), Move.STOP, None),
    ],
)
def test_a_bad_probe_of_the_whole_fleet_begins_the_way_back(
    given: list[NodeRollout], move: Move, node: str | None
) -> None:
    turn = next_move(given, broken=True)
    assert (turn.move, turn.node) == (move, node)


def test_the_order_of_the_way_back() -> None:
    assert nodes_to_roll_back(steps(P, P, F, W, same="a")) == ["c", "b"]
    assert nodes_to_roll_back(steps(P, P, R, W)) == ["b", "a"]
    assert nodes_to_roll_back(steps(P, F, P, W)) == ["b", "c", "a"]  # it was proven, and fell sick later


@given(
    changes=st.lists(st.booleans(), min_size=1, max_size=8),
    bad=st.sets(st.integers(0, 7), max_size=3),
    stuck=st.sets(st.integers(0, 7), max_size=2),
    killed=st.lists(st.booleans(), max_size=20),
    held=st.booleans(),
)
def test_no_history_touches_two_nodes_at_once_or_ends_half_way(
    changes: list[bool], bad: set[int], stuck: set[int], killed: list[bool], held: bool
) -> None:
    """Nodes fail, don't come back, and tasks are killed at random; the rules must hold in every history."""
    plan = [NodeRollout(str(n), ("/etc/x",) if changed else ()) for n, changed in enumerate(changes)]
    lives, broken, healthy_then_failed = iter(killed), False, 0
    for _ in range(60):
        turn = next_move(plan, broken=broken)
        if turn.move is Move.STOP:
            break
        if turn.move is Move.BAKE:
            if held:
                break
            broken = True
            continue
        number = int(str(turn.node))
        one = plan[number]
        in_hand = [step.node for step in plan if step.state in (T, F)]
        assert in_hand in ([], [turn.node]), "another node was neither proven nor back"
        if turn.move is Move.RECORD:
            assert not one.changes
            plan[number] = NodeRollout(one.node, (), P)
        elif turn.move is Move.UPDATE:
            assert not broken
            if next(lives, False):
                plan[number] = NodeRollout(one.node, one.changes, T)
            else:
                plan[number] = NodeRollout(one.node, one.changes, F if number in bad else P)
                healthy_then_failed += number in bad
                broken = number in bad
        elif not next(lives, False):
            plan[number] = NodeRollout(one.node, one.changes, S if number in stuck else R)
    else:
        pytest.fail("it never came to an end")
    assert healthy_then_failed <= 1, "after the first bad probe nothing more may be tried"
    if broken:
        some_stuck = any(step.state is S for step in plan)
        assert some_stuck or {plan[int(n)].state for n in updated_nodes(plan)} <= {R}
    else:
        assert {step.state for step in plan} == {P}

"""How a roll-out ended, by what stands on record."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kintsugi.core.rollout_state import NodeRollout, NodeState
from kintsugi.db.store import Deployment, ReleaseRecord
from kintsugi.releases.rollout_record import conclude_rollout, format_rollout

P, F, R, S, T, W = (
    NodeState.PROVEN,
    NodeState.FAILED,
    NodeState.RETURNED,
    NodeState.STUCK,
    NodeState.TOUCHED,
    NodeState.WAITING,
)


def deployment(*states: NodeState, broken: str | None = None) -> Deployment:
    steps = tuple(NodeRollout(f"kafka-{n}", ("/etc/x",), state) for n, state in enumerate(states, start=1))
    now = datetime.now(UTC)
    return Deployment("run", "b" * 64, "a" * 64, "running", broken, None, now, None, steps)


def record(*, good: bool, bad_reason: str | None = None) -> ReleaseRecord:
    now = datetime.now(UTC)
    return ReleaseRecord(
        "b" * 64, "here", now, now if good else None, now if bad_reason else None, bad_reason
    )


@pytest.mark.parametrize(
    ("found", "good", "state"),
    [
        (deployment(P, P, P), True, "held"),
        (deployment(P, P, P), False, "stopped"),  # killed before the hold was over
        (deployment(P, T, W), False, "stopped"),
        (deployment(P, W, W), True, "stopped"),  # known-good from before says nothing of today
        (deployment(), False, "stopped"),
        (deployment(R, R, W, broken="kafka-2: silent"), False, "returned"),
        (deployment(P, F, W, broken="kafka-2: silent"), False, "stuck"),  # the way back wasn't finished
        (deployment(P, S, W, broken="kafka-2: silent"), False, "stuck"),
    ],
)
def test_the_end(found: Deployment, good: bool, state: str) -> None:
    ended, reason = conclude_rollout(found, record(good=good), dry_run=False)
    assert ended == state
    assert (found.broken or "") in reason


def test_a_release_that_came_to_no_plan_says_why() -> None:
    bad = record(good=False, bad_reason="cassandra.yaml.j2: 'fleet_nam' is undefined")
    assert conclude_rollout(deployment(), bad, dry_run=False) == (
        "stopped",
        "no node was changed; the release is marked bad: cassandra.yaml.j2: 'fleet_nam' is undefined",
    )
    assert "the task that failed" in conclude_rollout(deployment(P, T, W), bad, dry_run=False)[1]


def test_a_dry_run_ends_as_one() -> None:
    assert conclude_rollout(deployment(W, W), record(good=False), dry_run=True)[0] == "dry_run"


def test_a_dry_run_that_came_to_no_plan_ends_as_stopped() -> None:
    bad = record(good=False, bad_reason="cassandra.yaml.j2: 'fleet_nam' is undefined")
    assert conclude_rollout(deployment(), bad, dry_run=True) == conclude_rollout(
        deployment(), bad, dry_run=False
    )


def test_the_story_names_what_was_restarted() -> None:
    assert "restarted for it: kafka-1, kafka-2)" in format_rollout(deployment(R, R, W, broken="x"))
    assert "restarted for it: no node)" in format_rollout(deployment(W))

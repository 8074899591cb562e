"""What the rejoin of a broker does next, from what the quorum looks like."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from kintsugi.core.fleet import Node, Role
from kintsugi.operations import kafka_voters
from kintsugi.operations.kafka_voters import VoterChange, next_voter_change, wanted_voters
from kintsugi.wire.kafka import Quorum, ReplicaState

OLD, NEW, OTHER, THIRD = (uuid4() for _ in range(4))
NODE = Node("kafka-2", Role.KAFKA, "127.20.1.2", 2222)
NOW = 1_700_000_000_000


def seen(node_id: int, directory: UUID, end: int = 1000, ago_ms: int = 100) -> ReplicaState:
    return ReplicaState(node_id, directory, end, NOW - ago_ms, NOW - ago_ms)


def step(voters: list[ReplicaState], observers: list[ReplicaState], acts: list[str], wanted: int = 3) -> str:
    peers = [seen(1, OTHER, ago_ms=0), seen(3, THIRD)]
    quorum = Quorum(1, 1000, (*peers, *voters), tuple(observers))
    return kafka_voters._next_step(
        quorum, NODE, "leader:9093", "cluster", "127.20.1.2:9093", wanted, acts.append
    )


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    monkeypatch.setattr(
        kafka_voters,
        "remove_voter",
        lambda leader, cluster, replica: done.append(f"remove {replica.directory}"),
    )
    monkeypatch.setattr(
        kafka_voters,
        "add_voter",
        lambda leader, cluster, replica, at: done.append(f"add {replica.directory}"),
    )
    return done


def calls(acts: list[str]) -> list[str]:
    return [act for act in acts if act.startswith(("remove ", "add "))]


def test_a_broker_that_votes_with_its_present_disk_is_done(acts: list[str]) -> None:
    assert step([seen(2, OLD)], [], acts) == ""
    assert acts == []


def test_a_dead_predecessor_that_fetched_until_a_moment_ago_is_no_success(acts: list[str]) -> None:
    missing = step([seen(2, OLD, end=995, ago_ms=6000)], [], acts)
    assert "does not see it fetch" in missing
    assert acts == []


def test_the_lost_disk_is_removed_and_the_new_one_added(acts: list[str]) -> None:
    assert "confirmed" in step([seen(2, OLD, end=10, ago_ms=60_000)], [seen(2, NEW)], acts)
    assert calls(acts) == [f"remove {OLD}", f"add {NEW}"]


def test_the_lost_disk_is_removed_while_the_new_one_catches_up(acts: list[str]) -> None:
    assert "offset 12 of 1000" in step([seen(2, OLD, ago_ms=60_000)], [seen(2, NEW, end=12)], acts)
    assert calls(acts) == [f"remove {OLD}"]


def test_killed_between_remove_and_add_it_goes_on(acts: list[str]) -> None:
    step([], [seen(2, NEW)], acts)
    assert calls(acts) == [f"add {NEW}"]


def test_two_disks_of_one_broker_are_never_taken_for_done(acts: list[str]) -> None:
    assert step([seen(2, OLD), seen(2, NEW)], [], acts) != ""


def test_a_removed_disk_that_is_still_listed_as_observer_is_not_taken_for_the_living_one(
    acts: list[str],
) -> None:
    """Seen on real servers: the leader lists it for minutes, and the two were swapped for ever."""
    assert step([seen(2, NEW)], [seen(2, OLD, ago_ms=20_000)], acts) == ""
    assert acts == []


def test_peers_are_never_touched(acts: list[str]) -> None:
    step([], [seen(3, NEW), seen(2, NEW)], acts)
    assert calls(acts) == [f"add {NEW}"]


def test_a_broker_that_was_an_observer_stays_one(acts: list[str]) -> None:
    quorum = Quorum(1, 1000, (seen(1, OTHER), seen(3, THIRD), seen(4, OLD)), (seen(2, NEW),))
    missing = kafka_voters._next_step(quorum, NODE, "l:1", "c", "e:1", 3, acts.append)
    assert missing == ""
    assert acts == []


@pytest.mark.parametrize(("brokers", "voters"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5)])
def test_the_number_of_voters_is_odd_from_three_on(brokers: int, voters: int) -> None:
    assert wanted_voters(brokers) == voters


def quorum_of(voters: list[int], observers: list[int], leader: int = 1) -> Quorum:
    return Quorum(
        leader,
        1000,
        tuple(seen(one, uuid4()) for one in voters),
        tuple(seen(one, uuid4()) for one in observers),
    )


@pytest.mark.parametrize(
    ("voters", "observers", "remaining", "change"),
    [
        ([1, 2, 3], [], [1, 2, 3], None),
        ([1, 2, 3], [4], [1, 2, 3, 4], None),
        ([1, 2, 3], [4, 5], [1, 2, 3, 4, 5], VoterChange(True, 4)),
        ([1, 2, 3, 4], [5], [1, 2, 3, 4, 5], VoterChange(True, 5)),
        ([1, 2, 3], [4], [1, 2, 3], None),
        ([1, 2, 3], [4], [1, 3, 4], VoterChange(True, 4)),
        ([1, 2, 3, 4], [], [1, 3, 4], VoterChange(False, 2)),
        ([1, 2, 3, 4, 5], [], [1, 2, 3, 4], VoterChange(False, 5)),
        ([1, 2, 3, 4], [], [1, 2, 3, 4], VoterChange(False, 4)),
    ],
)
def test_a_voter_is_added_before_one_is_removed(
    voters: list[int], observers: list[int], remaining: list[int], change: VoterChange | None
) -> None:
    assert next_voter_change(quorum_of(voters, observers), remaining) == change


def test_the_leader_leaves_the_quorum_last() -> None:
    assert next_voter_change(quorum_of([1, 2, 3, 4, 5], []), [3, 4, 5]) == VoterChange(False, 2)

"""The voters of Kafka's metadata quorum: bring a broker whose disk was lost back, and follow the number of brokers.

A voter is a broker *and* its data directory. A broker on a newly formatted disk has a new directory id. The dead
directory still counts in the quorum, so one more failure would stop the cluster. In order:

1. Find the leader; wait until it sees the broker's new directory fetch the metadata log, as an observer.
2. Remove every other directory of that broker from the voters. The two other brokers are a majority of three.
3. Wait until the observer has caught up, then add it as a voter.

Each step checks before it acts, so all of it may be killed and run again. For a broker that kept its disk nothing
is done.

With an even number of brokers one of them is no voter, because a quorum of four outlives no more failures than one of
three (`wanted_voters`). It stays an observer until another voter leaves (`settle_voters`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node
from kintsugi.core.settings import KAFKA_CONTROLLER_PORT
from kintsugi.wire.kafka import Quorum, ReplicaState
from kintsugi.wire.kafka_quorum import QuorumError, add_voter, find_leader, remove_voter

_PAUSE_S = 0.3
_FETCHES_WITHIN_MS = 3000  # a live replica fetches every half second
_LAG = 50  # records behind the high watermark; the leader itself checks that a new voter is near its end


def _discard_progress(_sentence: str) -> None:
    """Report nothing."""


def rejoin_voter(
    fleet: Fleet,
    node: Node,
    cluster_id: str,
    *,
    timeout_s: float = 60.0,
    on_progress: Callable[[str], None] = _discard_progress,
) -> None:
    """Make ``node`` a voter with its current data directory (steps 1 to 3).

    Raises StepFailed with what is missing if it isn't a voter after ``timeout_s`` seconds.
    """
    endpoint = f"{node.address}:{KAFKA_CONTROLLER_PORT}"
    deadline = time.monotonic() + timeout_s
    missing = "no answer yet"
    while time.monotonic() < deadline:
        try:
            leader, quorum = find_leader(_controller_endpoints(fleet, node))
            wanted = wanted_voters(len(fleet.of(node.role)))
            missing = _next_step(quorum, node, leader, cluster_id, endpoint, wanted, on_progress)
            if not missing:
                return
        except QuorumError as error:  # an election is running, or an observer hasn't caught up
            missing = str(error)
        time.sleep(_PAUSE_S)
    raise StepFailed(
        f"{node.name} is not a Kafka voter after {timeout_s:.0f} s: {missing}; read its kafka.log"
    )


def _next_step(
    quorum: Quorum,
    node: Node,
    leader: str,
    cluster_id: str,
    endpoint: str,
    wanted: int,
    on_progress: Callable[[str], None],
) -> str:
    """Do what can be done now; returns what is still missing, empty if the node is a voter."""
    present = live_voters(quorum, node.index)
    if present is None:
        return "the leader does not see it fetch the metadata log"
    dead = [v for v in quorum.voters if v.node_id == node.index and v.directory != present.directory]
    for voter in dead:
        remove_voter(leader, cluster_id, voter)
        on_progress(f"removed the dead voter of {node.name} (directory {voter.directory})")
    if present in quorum.voters:
        return "the leader has not confirmed that the dead voter is removed" if dead else ""
    if not dead and len(voter_ids(quorum)) >= wanted:
        return ""  # it was an observer before, too
    if present.end_offset < quorum.high_watermark - _LAG:
        return f"it is at offset {present.end_offset} of {quorum.high_watermark} of the metadata log"
    add_voter(leader, cluster_id, present, endpoint)
    on_progress(f"added {node.name} as a voter (directory {present.directory})")
    return "the leader has not confirmed it as a voter"


def live_voters(quorum: Quorum, node_id: int) -> ReplicaState | None:
    """Return the broker's directory that fetches now, as a voter or an observer; None if none does.

    The leader lists a removed directory among the observers for minutes after its last fetch. Only the time of the
    last fetch tells a dead directory from the live one. It is compared with the leader's clock, which the leader's own
    entry shows.
    """
    now = max((replica.fetched_ms for replica in quorum.voters), default=0)
    fetching = [
        replica
        for replica in (*quorum.voters, *quorum.observers)
        if replica.node_id == node_id and replica.fetched_ms > now - _FETCHES_WITHIN_MS
    ]
    return max(fetching, key=lambda replica: replica.fetched_ms, default=None)


def wanted_voters(brokers: int) -> int:
    """Return how many of so many brokers are voters: the largest odd number, and both of two."""
    return brokers if brokers % 2 or brokers < 3 else brokers - 1


def voter_ids(quorum: Quorum) -> set[int]:
    """Return the node ids of the voters."""
    return {voter.node_id for voter in quorum.voters}


@dataclass(frozen=True, slots=True)
class VoterChange:
    """One change of the quorum: the broker ``node_id`` becomes a voter (``add``), or is none any more."""

    add: bool
    node_id: int


def next_voter_change(quorum: Quorum, remaining: Collection[int]) -> VoterChange | None:
    """Return the next change, so that so many voters as wanted are among the ``remaining`` brokers; None if it is so.

    Pure. A voter is added before another one is removed, so the quorum is never smaller than before. The leader is
    removed last, because another one has to be elected then.
    """
    voters, wanted = voter_ids(quorum), wanted_voters(len(remaining))
    staying = voters & set(remaining)
    if len(staying) < wanted:
        observers = {replica.node_id for replica in quorum.observers} & set(remaining) - voters
        waiting = sorted(observers) or sorted(set(remaining) - voters)
        return VoterChange(True, waiting[0])
    leaving = sorted(voters - set(remaining)) or sorted(staying)[wanted:]
    if not leaving:
        return None
    return VoterChange(False, min(leaving, key=lambda one: (one == quorum.leader_id, one)))


def settle_voters(
    brokers: Sequence[Node],
    leaving: Sequence[Node],
    cluster_id: str,
    *,
    timeout_s: float = 600.0,
    on_progress: Callable[[str], None] = _discard_progress,
) -> None:
    """Change the quorum until so many voters as wanted are among ``brokers``, and none of those ``leaving`` is one.

    May be killed and run again. Raises StepFailed with what is missing after ``timeout_s`` seconds.
    """
    nodes = {node.index: node for node in (*brokers, *leaving)}
    endpoints = {index: f"{node.address}:{KAFKA_CONTROLLER_PORT}" for index, node in nodes.items()}
    deadline, missing = time.monotonic() + timeout_s, "no answer yet"
    while time.monotonic() < deadline:
        try:
            leader, quorum = find_leader(endpoints.values())
            change = next_voter_change(quorum, [node.index for node in brokers])
            if change is None:
                return
            missing = _change_one(leader, quorum, change, cluster_id, endpoints[change.node_id])
            if not missing:
                verb = "is a voter" if change.add else "is no voter any more"
                on_progress(f"{nodes[change.node_id].name} {verb}")
                continue
        except QuorumError as error:  # an election is running, or an observer hasn't caught up
            missing = str(error)
        time.sleep(_PAUSE_S)
    raise StepFailed(f"the quorum of Kafka has not the wanted voters after {timeout_s:.0f} s: {missing}")


def _change_one(leader: str, quorum: Quorum, change: VoterChange, cluster_id: str, endpoint: str) -> str:
    """Carry one change out; returns what is missing for it, empty if the leader has confirmed it."""
    if not change.add:
        for voter in quorum.voters:
            if voter.node_id == change.node_id:
                remove_voter(leader, cluster_id, voter)
        return ""
    present = live_voters(quorum, change.node_id)
    if present is None:
        return f"the leader does not see broker {change.node_id} fetch the metadata log"
    if present.end_offset < quorum.high_watermark - _LAG:
        return f"broker {change.node_id} is at offset {present.end_offset} of {quorum.high_watermark}"
    add_voter(leader, cluster_id, present, endpoint)
    return ""


def _controller_endpoints(fleet: Fleet, node: Node) -> list[str]:
    others = [f"{peer.address}:{KAFKA_CONTROLLER_PORT}" for peer in fleet.peers(node)]
    return [*others, f"{node.address}:{KAFKA_CONTROLLER_PORT}"]

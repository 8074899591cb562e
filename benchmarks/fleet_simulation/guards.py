"""Part ``guards``: repair budget, common cause and the other guards under failures of every extent, in simulated time.

The production's pure functions decide (`recovery.guards`, `recovery.common_cause`, `recovery.escalation`). The world
around them is a model:

1. A node that refuses is found after 3 s, a silent one after 9 s. Confirming it takes 2 s more.
2. A refusal that passes is asked again when the guards say, or after 5 s. Any other asks a person, who doesn't answer:
   its run ends after 30 minutes, and a new finding asks again.
3. A repair takes a minute. After a new volume the data is consistent two minutes later.
4. A machine or zone without power is dead, and the platform says so. A node that hangs still runs.
5. A node answers until it fails, and again when it is repaired or its stall ends. Nobody else hears a silent node.
"""

from __future__ import annotations

import heapq
import random
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

from benchmarks.fleet_simulation.figures import spread
from benchmarks.fleet_simulation.simulated_fleet import simulated_fleet
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.incident import Action, RepairBudget
from kintsugi.core.observation import ProbeResult
from kintsugi.db.attempts import BUDGET_WINDOW
from kintsugi.recovery.common_cause import OtherNode
from kintsugi.recovery.diagnosis import LIVE_WITHIN, FailureMode
from kintsugi.recovery.escalation import decide_action
from kintsugi.recovery.guard_model import (
    DEFAULT_LIMITS,
    CassandraFacts,
    GuardFacts,
    KafkaFacts,
    ReplicaCounts,
)
from kintsugi.recovery.guards import evaluate_action

HORIZON_S = 24 * 3600.0
REPAIR_S, CONSISTENT_S = 60.0, 120.0
CONFIRM_S, ASK_AGAIN_S, PERSON_S = 2.0, 5.0, 1815.0
FOUND_S: Mapping[ProbeResult, float] = {ProbeResult.REFUSED: 3.0, ProbeResult.TIMEOUT: 9.0}
NODES_A_HOST = 4

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Failure:
    """One node fails at ``at_s``. ``running``: the platform's answer. ``returns_s``: when it answers by itself."""

    node: Node
    at_s: float
    mode: FailureMode
    service: ProbeResult
    running: bool | None
    returns_s: float | None = None


Scenario = Callable[[Fleet, random.Random], list[Failure]]


def _host_lost(node: Node, at_s: float) -> Failure:
    return Failure(node, at_s, FailureMode.HOST_LOST, ProbeResult.REFUSED, running=False)


def _hung(node: Node, at_s: float, for_s: float | None = None) -> Failure:
    returns_s = None if for_s is None else at_s + for_s
    return Failure(node, at_s, FailureMode.HUNG, ProbeResult.TIMEOUT, running=True, returns_s=returns_s)


def independent(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """A fiftieth of the fleet (at least three nodes) fails at random in an hour: half die, half hang."""
    victims = chance.sample(list(fleet), max(3, len(fleet.nodes) // 50))
    return [
        (_host_lost, _hung)[number % 2](node, chance.uniform(0, 3600)) for number, node in enumerate(victims)
    ]


def disks(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """A hundredth of the fleet (at least two nodes of data) loses its disk at random in an hour."""
    nodes = fleet.of(Role.KAFKA, Role.CASSANDRA)
    return [
        Failure(node, chance.uniform(0, 3600), FailureMode.DISK_LOST, ProbeResult.REFUSED, running=True)
        for node in chance.sample(nodes, max(2, len(fleet.nodes) // 100))
    ]


def host(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """A machine with four nodes loses its power."""
    nodes = list(fleet)
    first = chance.randrange(0, len(nodes) - NODES_A_HOST + 1)
    return [_host_lost(node, 0.0) for node in nodes[first : first + NODES_A_HOST]]


def zone_power(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """A zone loses its power."""
    zone = chance.choice(sorted({node.zone or "" for node in fleet}))
    return [_host_lost(node, 0.0) for node in fleet if node.zone == zone]


def zone_hung(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """All nodes of a zone hang within 5 s, for good."""
    zone = chance.choice(sorted({node.zone or "" for node in fleet}))
    return [_hung(node, chance.uniform(0, 5)) for node in fleet if node.zone == zone]


def role_hung(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """All brokers hang within 5 s, for good, as after a bad configuration."""
    return [_hung(node, chance.uniform(0, 5)) for node in fleet.of(Role.KAFKA)]


def role_stall(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """All brokers stall for 24 s, as on a slow storage."""
    return [_hung(node, chance.uniform(0, 2), 24.0) for node in fleet.of(Role.KAFKA)]


def fleet_stall(fleet: Fleet, chance: random.Random) -> list[Failure]:
    """The whole fleet stalls for 60 s."""
    return [_hung(node, chance.uniform(0, 2), 60.0) for node in fleet]


SCENARIOS: Mapping[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (independent, disks, host, zone_power, zone_hung, role_hung, role_stall, fleet_stall)
}


@dataclass
class Simulation:
    """The fleet in simulated time, in seconds since its begin. It counts what the guards allowed."""

    fleet: Fleet
    failures: Sequence[Failure]
    clock: Callable[[], float] = time.thread_time  # what other processes do to the machine doesn't count

    attempts_s: list[float] = field(default_factory=list)
    attempts_of: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    working: dict[str, float] = field(default_factory=dict)
    pending: dict[str, Role] = field(default_factory=dict)
    allowed_s: dict[str, float] = field(default_factory=dict)
    live_kills: list[str] = field(default_factory=list)
    killed_in_a_stall: list[str] = field(default_factory=list)
    refused_by: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    asked_a_person: set[str] = field(default_factory=set)
    judgements_us: list[float] = field(default_factory=list)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._failed = {failure.node.name: failure for failure in self.failures}
        self._silent: set[str] = set()
        self._seen = {
            node.name: OtherNode(node.name, node.role, answers=True, zone=node.zone) for node in self.fleet
        }
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        for failure in self.failures:
            self._at(failure.at_s, partial(self._fail, failure))

    def run(self) -> None:
        """Run until nothing is left to decide, or until the horizon."""
        while self._events and self._events[0][0] <= HORIZON_S:
            _, _, event = heapq.heappop(self._events)
            event()

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), event))

    def _fail(self, failure: Failure) -> None:
        name = failure.node.name
        self._silent.add(name)
        self._seen[name] = replace(
            self._seen[name], answers=False, running=failure.running, silent_since=_moment(failure.at_s)
        )
        if failure.returns_s is not None:
            self._at(failure.returns_s, partial(self._answer_again, name))
        self._judge_at(failure, failure.at_s + FOUND_S[failure.service] + CONFIRM_S)

    def _answer_again(self, name: str) -> None:
        self._silent.discard(name)
        self._seen[name] = replace(self._seen[name], answers=True, running=None, silent_since=None)

    def _judge_at(self, failure: Failure, at_s: float) -> None:
        self._at(at_s, partial(self._judge, failure, at_s))

    def _judge(self, failure: Failure, at_s: float) -> None:
        """Let the guards judge the node; then begin its repair, or ask again later."""
        name = failure.node.name
        action = decide_action(
            failure.mode, [], role=failure.node.role, volume_intact=failure.mode is not FailureMode.DISK_LOST
        ).action
        facts = self._facts(failure, at_s)
        began_s = self.clock()
        result = evaluate_action(action, facts)
        self.judgements_us.append(1e6 * (self.clock() - began_s))
        answers = name not in self._silent
        if result.allowed:
            self._begin(failure, action, at_s)
            if answers or (failure.running and at_s - failure.at_s <= LIVE_WITHIN.total_seconds()):
                self.live_kills.append(name)
            elif failure.returns_s is not None:
                self.killed_in_a_stall.append(name)
        elif not answers:  # a node that answers again is closed without action
            for guard in result.gates:
                self.refused_by[guard] += 1
            if not result.passing:
                self.asked_a_person.add(name)
            self._judge_at(failure, _next_question_s(result.passing, result.retry_at, at_s))

    def _begin(self, failure: Failure, action: Action, at_s: float) -> None:
        name = failure.node.name
        self.attempts_s.append(at_s)
        self.attempts_of[name].append(at_s)
        self.allowed_s[name] = at_s
        self.working[name] = at_s
        self.most_at_once = max(self.most_at_once, len(self.working))
        self._at(at_s + REPAIR_S, partial(self._finish, name))
        if action.destroys_volume or (action.destroys and failure.node.role is Role.CASSANDRA):
            self.pending[name] = failure.node.role
            self._at(at_s + REPAIR_S + CONSISTENT_S, partial(self._forget_pending, name))

    def _finish(self, name: str) -> None:
        del self.working[name]
        self._answer_again(name)

    def _forget_pending(self, name: str) -> None:
        del self.pending[name]

    def _facts(self, failure: Failure, at_s: float) -> GuardFacts:
        node, answers = failure.node, failure.node.name not in self._silent
        lost = failure.mode is FailureMode.DISK_LOST
        now = _moment(at_s)
        return GuardFacts(
            node=node.name,
            role=node.role,
            at=now,
            observed_at=now,
            service=ProbeResult.OK if answers else failure.service,
            ssh=ProbeResult.OK if failure.running else ProbeResult.TIMEOUT,
            last_seen_at=now if answers else _moment(failure.at_s),
            first_failed_at=_moment(failure.at_s),
            volume_intact=not lost,
            fleet_size=len(self.fleet.nodes),
            sick=len(self._silent | {node.name}),
            protected=node.protected,
            ledger=self._ledger(node, at_s),
            kafka=self._kafka_facts(node) if lost and node.role is Role.KAFKA else None,
            cassandra=self._cassandra_facts(node) if node.role is Role.CASSANDRA else None,
            running=failure.running,
            others=tuple(other for name, other in self._seen.items() if name != node.name),
            zone=node.zone,
        )

    def _ledger(self, node: Node, at_s: float) -> RepairBudget:
        since_s = at_s - BUDGET_WINDOW.total_seconds()
        return RepairBudget(
            maintenance=(),
            repairs_of_node=_later_than(self.attempts_of[node.name], since_s),
            repairs_of_fleet=_later_than(self.attempts_s, since_s),
            pending=frozenset(
                name for name, role in self.pending.items() if role is node.role and name != node.name
            ),
            role_attempts={
                name: _moment(began_s)
                for name, began_s in self.working.items()
                if name != node.name and self._failed[name].node.role is node.role
            },
        )

    def _kafka_facts(self, node: Node) -> KafkaFacts:
        """Three replicas of each partition on neighbours, which are in three zones; every broker is a voter."""
        brokers = self.fleet.of(Role.KAFKA)
        live = frozenset(broker.index for broker in brokers if broker.name not in self._silent)
        partitions = {}
        for first in range(node.index - 2, node.index + 1):
            replicas = {(number - 1) % len(brokers) + 1 for number in range(first, first + 3)}
            partitions[f"trades-{first}"] = ReplicaCounts(frozenset(replicas & live))
        current = len(live - {node.index})
        return KafkaFacts(node.index, partitions, live, voters=len(brokers), current=current)

    def _cassandra_facts(self, node: Node) -> CassandraFacts:
        peers = self.fleet.peers(node)
        return CassandraFacts(replication=3, others_down=sum(peer.name in self._silent for peer in peers))


def measure_guards(sizes: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Return the figures of every scenario at every size."""
    return [
        simulate_scenario(name, simulated_fleet(size, mutual_tls=False), seed)
        for size in sizes
        for name in SCENARIOS
    ]


def simulate_scenario(name: str, fleet: Fleet, seed: int) -> dict[str, Any]:
    """Return the figures of one scenario; times in simulated seconds since the first failure."""
    failures = SCENARIOS[name](fleet, random.Random(f"{seed} {name}"))  # noqa: S311 - repeatable, not secret
    simulation = Simulation(fleet, failures)
    simulation.run()
    allowed_s = simulation.allowed_s
    waits_s = [allowed_s[one.node.name] - one.at_s for one in failures if one.node.name in allowed_s]
    returned = [one for one in failures if one.returns_s is not None and one.node.name not in allowed_s]
    return {
        "scenario": name,
        "nodes": len(fleet.nodes),
        "seed": seed,
        "failed": len(failures),
        "allowed": len(waits_s),
        "returned": len(returned),
        "left_after_24_h": len(failures) - len(waits_s) - len(returned),
        "live_kills": len(simulation.live_kills),
        "killed_in_a_stall": len(simulation.killed_in_a_stall),
        "most_at_once": simulation.most_at_once,
        "most_in_an_hour": most_in_a_window(simulation.attempts_s, BUDGET_WINDOW.total_seconds()),
        "budget_an_hour": DEFAULT_LIMITS.repairs_per_hour,
        "wait_s": spread(waits_s),
        "asked_a_person": len(simulation.asked_a_person),
        "refused_by": dict(sorted(simulation.refused_by.items())),
        "judgement_us": spread(simulation.judgements_us),
    }


def most_in_a_window(moments_s: Sequence[float], window_s: float) -> int:
    """Return how many of the moments, which are sorted, lie in the fullest window that begins with one of them."""
    return max(
        (bisect_left(moments_s, first + window_s) - at for at, first in enumerate(moments_s)), default=0
    )


def _later_than(moments_s: Sequence[float], since_s: float) -> int:
    return len(moments_s) - bisect_left(moments_s, since_s)


def _next_question_s(passing: bool, retry_at: datetime | None, at_s: float) -> float:
    if not passing:
        return at_s + PERSON_S
    if retry_at is None:
        return at_s + ASK_AGAIN_S
    return max(at_s + 0.1, (retry_at - _BEGIN).total_seconds())


def _moment(at_s: float) -> datetime:
    return _BEGIN + timedelta(seconds=at_s)

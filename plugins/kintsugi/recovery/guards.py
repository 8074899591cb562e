"""The guards: pure rules that allow or refuse an action. A refusal is a list of sentences, one for each reason.

Which guards an action has to pass depends on how much it can destroy:

| guard                                                     | restart, roll back | rebuild node | both |
|-----------------------------------------------------------|:---:|:---:|:---:|
| no maintenance flag on the node or the fleet              |  x  |  x  |  x  |
| repair budget: per node and for the fleet, in one hour    |  x  |  x  |  x  |
| the peers can do without a node that still serves         |  x  |     |     |
| the node is not protected                                 |     |  x  |  x  |
| kill of a live node: nobody got an answer in the last 5 s | (k) |  x  |  x  |
| no common cause is likely (`common_cause`)                | (k) | (k) | (k) |
| one node of a role at a time                              | (k) | (k) | (k) |
| breaker: at most half of the fleet is down                | (k) | (k) |  x  |
| last copy and quorum; replication of at least 2           |     |     |  x  |
| no data repair of another node of this role is pending    |     |     | (x) |

(k) Evaluated only if the action can kill something that still runs. Nothing can be killed if the platform says that
the node does not run. A restart also kills nothing if the node says that its service does not run. So a whole
fleet can be started again after a power cut.
(x) A pending data repair does not matter if the volume is known to be gone: there is nothing left to destroy.
Kafka's copies are checked even then. If a replica comes back empty and is the only one in sync, the other
replicas truncate their data.

A node that anybody heard within 5 s is never killed, unless its platform says that it does not run. A role without
peers has nobody else who could have heard the node, so its silence must last 30 s.

An action that destroys is refused if a fact is unknown. A restart is refused only by facts that are known.
The lease is not checked here. The database checks it in the transaction of each action.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, RepairBudget
from kintsugi.core.observation import NodeView, ProbeResult
from kintsugi.recovery.common_cause import CommonCause, OtherNode, Starvation, find_common_cause
from kintsugi.recovery.diagnosis import STUCK_AFTER

APPROVE, DECLINE = "Approve", "Decline"  # the answers that a person can give to a refusal


class Guard(StrEnum):
    """A guard that can refuse an action: a row of the table above, or missing data from the database."""

    STORE = "store"
    MAINTENANCE = "maintenance"
    BUDGET = "budget"
    PROTECTED = "protected"
    BREAKER = "breaker"
    COPIES = "copies"
    PENDING = "pending"
    WRONG_KILL = "wrong_kill"
    COMMON_CAUSE = "common_cause"
    ONE_OF_ROLE = "one_of_role"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is allowed. The defaults allow a night of chaos runs and stop a repair loop."""

    repairs_per_node_and_hour: int = 6
    repairs_per_hour: int = 30
    sick_share: float = 0.5  # share of the fleet that is down; above it the breaker is open
    silence: timedelta = timedelta(seconds=5)  # a node that was heard more recently is never killed
    silence_without_peers: timedelta = timedelta(seconds=30)
    between_kills: timedelta = timedelta(seconds=60)  # between two kills of running nodes of one role
    observed_within: timedelta = timedelta(seconds=10)  # older facts don't count


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """Which brokers (by node id) hold a partition: in sync, and eligible as leader (KIP-966)."""

    in_sync: frozenset[int]
    eligible: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What the other brokers report. None means unknown.

    ``partitions``: every partition that this broker holds a replica of (``"trades-0"``). ``live``: brokers
    that answer. ``voters``: size of the quorum. ``current``: the other voters that answer and have caught up
    with the leader.
    """

    node_id: int
    partitions: Mapping[str, ReplicaCounts] | None = None
    live: frozenset[int] | None = None
    voters: int | None = None
    current: int | None = None


@dataclass(frozen=True, slots=True)
class CassandraFacts:
    """What the other Cassandra nodes report. None means unknown.

    ``replication``: the smallest replication factor of our keyspaces. ``others_down``: how many other nodes
    are not up and normal.
    """

    replication: int | None = None
    others_down: int | None = None


@dataclass(frozen=True, slots=True)
class GuardFacts:
    """The facts that the guards use. None means unknown. Times are UTC; ``at`` is now.

    ``observed_at``, ``service``, ``ssh``, ``last_seen_at``, ``volume_intact``: from the newest observation.
    ``first_failed_at``: of the incident; used instead of ``last_seen_at`` if nobody has ever heard the node.
    ``sick``: how many nodes of the fleet don't serve, this one included. ``running``: the platform's answer.
    ``view``: what the node itself reports of its service. ``others``: the other nodes of the fleet.
    ``starvation``: set if processor time was missing. ``planned``: the service is to be stopped although it serves
    (clock skew, a roll-back, a person's request).
    """

    node: str
    role: Role
    at: datetime
    observed_at: datetime | None = None
    service: ProbeResult | None = None
    ssh: ProbeResult | None = None
    last_seen_at: datetime | None = None
    first_failed_at: datetime | None = None
    volume_intact: bool | None = None
    fleet_size: int | None = None
    sick: int | None = None
    protected: bool | None = None
    ledger: RepairBudget | None = None
    kafka: KafkaFacts | None = None
    cassandra: CassandraFacts | None = None
    running: bool | None = None
    view: NodeView = field(default_factory=NodeView)
    others: tuple[OtherNode, ...] = ()
    starvation: Starvation | None = None
    planned: bool = False

    def with_ledger(self, ledger: RepairBudget) -> GuardFacts:
        """Return these facts with the maintenance flags and repair counts that the database holds now."""
        return replace(self, ledger=ledger)

    @property
    def silent_since(self) -> datetime | None:
        """The time since which nobody got an answer from the node; None if unknown."""
        return self.last_seen_at or self.first_failed_at

    @property
    def proven_dead(self) -> bool:
        """Whether the platform says that the node does not run. A refused connection alone is no proof."""
        return self.running is False and self.service is not ProbeResult.OK

    @property
    def process_ended(self) -> bool:
        """Whether the node itself says that no process of the service runs. Then a restart kills nothing."""
        return self.view.listening is False and self.view.process is None

    @property
    def stuck(self) -> bool:
        """Whether the service accepts connections, also from its own node, but has answered none for 30 s.

        If its peers still hear it, they hear its gossip. That does not show that it serves clients.
        """
        since = self.first_failed_at
        silent = self.view.connected is True and self.view.answer not in (None, ProbeResult.OK)
        return silent and since is not None and self.at - since >= STUCK_AFTER

    def common_cause(self) -> CommonCause | None:
        """The cause that this node probably shares with other nodes; None if it failed alone."""
        return find_common_cause(
            self.node,
            self.role,
            at=self.at,
            silent_since=self.first_failed_at,
            others=self.others,
            starvation=self.starvation,
        )


@dataclass(frozen=True, slots=True)
class GuardResult:
    """Whether the action is allowed. If not: the reasons, one sentence each, and which ``gates`` refused.

    ``passing``: every reason can go away by itself, so the guards can be evaluated again later.
    ``retry_at``: the time for that, if known.
    """

    allowed: bool
    reasons: tuple[str, ...] = ()
    gates: frozenset[Guard] = frozenset()
    passing: bool = False
    retry_at: datetime | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason of a guard against an action; see `GuardResult`."""

    reason: str
    passing: bool = True
    retry_at: datetime | None = None


def evaluate(
    action: Action, facts: GuardFacts, limits: Limits = Limits(), *, approved: Collection[Guard] = ()
) -> GuardResult:
    """Evaluate every guard that the action has to pass. A refusal gives all reasons, not only the first.

    ``approved``: the guards that a person was asked about and overrode. The guard against the kill of a live node
    can't be overridden. To destroy a node that still answers, a person has to stop it first.
    """
    if action is Action.AUTO:
        return GuardResult(False, ("Refused: 'auto' is a request, not an action. Choose an action first.",))
    if not action.changes:
        return GuardResult(True)
    opened = set(approved) - {Guard.WRONG_KILL}
    refused = {
        gate: found
        for gate, objections in _gates(action, facts, limits)
        if gate not in opened and (found := list(objections))
    }
    objections = [objection for found in refused.values() for objection in found]
    times = [objection.retry_at for objection in objections if objection.retry_at]
    return GuardResult(
        allowed=not objections,
        reasons=tuple(objection.reason for objection in objections),
        gates=frozenset(refused),
        passing=bool(objections) and all(objection.passing for objection in objections),
        retry_at=max(times, default=None),
    )


def _gates(action: Action, facts: GuardFacts, limits: Limits) -> Iterator[tuple[Guard, Iterator[Violation]]]:
    """Yield the guards that the action has to pass, each with its violations."""
    yield Guard.STORE, _store(facts, strict=action.destroys)
    yield Guard.MAINTENANCE, _maintenance(facts)
    yield Guard.BUDGET, _budget(facts, limits)
    kills = not (facts.proven_dead or (facts.process_ended and not action.destroys))
    if action.destroys:
        yield Guard.PROTECTED, _protected(facts)
    elif facts.planned and facts.service is ProbeResult.OK:
        yield Guard.COPIES, _copies(facts, "stop a node that serves")
    if action.destroys_volume:
        what = "start it on an empty disk" if facts.volume_intact is False else "destroy the volume"
        yield Guard.COPIES, _copies(facts, what)
        yield Guard.PENDING, _pending(facts)
    if kills or action.destroys_volume:
        yield Guard.BREAKER, _breaker(facts, limits, strict=action.destroys)
    if kills:
        yield Guard.COMMON_CAUSE, _common_cause(facts)
        yield Guard.ONE_OF_ROLE, _one_of_role(facts, limits)
    if action.destroys or (kills and not facts.planned):
        yield Guard.WRONG_KILL, _wrong_kill(facts, limits)


def _store(facts: GuardFacts, *, strict: bool) -> Iterator[Violation]:
    if facts.ledger is None and strict:
        yield Violation(
            "Maintenance flags and repair budget are unknown: the database did not return them. "
            "Nothing is destroyed without them."
        )


def _maintenance(facts: GuardFacts) -> Iterator[Violation]:
    for flag in facts.ledger.maintenance if facts.ledger else ():
        yield Violation(f"Maintenance: {flag}", passing=False)


def _budget(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    ledger = facts.ledger
    if ledger is None:
        return
    if ledger.repairs_of_node >= limits.repairs_per_node_and_hour:
        yield Violation(
            f"{facts.node} was recovered {ledger.repairs_of_node} times in the last hour (budget: "
            f"{limits.repairs_per_node_and_hour}). Another attempt will probably fail too.",
            passing=False,
        )
    if ledger.repairs_of_fleet >= limits.repairs_per_hour:
        yield Violation(
            f"The fleet had {ledger.repairs_of_fleet} recovery attempts in the last hour "
            f"(budget: {limits.repairs_per_hour}).",
            passing=False,
        )


def _protected(facts: GuardFacts) -> Iterator[Violation]:
    if facts.protected is None:
        yield Violation(f"It is unknown whether {facts.node} is protected.")
    elif facts.protected:
        yield Violation(
            f"{facts.node} is protected: it is destroyed only if a person approves.", passing=False
        )


def _wrong_kill(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    if facts.observed_at is None or facts.at - facts.observed_at > limits.observed_within:
        yield Violation(
            f"The last observation of {facts.node} is older than "
            f"{limits.observed_within.total_seconds():.0f} s. It is observed again before anything is killed."
        )
    if facts.service is ProbeResult.OK or facts.service is None:
        said = "answers its own protocol" if facts.service else "was not probed"
        yield Violation(f"{facts.node} {said}. A node that may serve is never killed.")
    if facts.view.answer is ProbeResult.OK:
        yield Violation(
            f"{facts.node} answers its own protocol when it is asked from the node itself. "
            "A live node is never killed."
        )
    if not (facts.proven_dead or facts.stuck):
        yield from _heard(facts, limits)


def _heard(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    """A node that may still run was heard too recently."""
    since, alone = facts.silent_since, all(other.role is not facts.role for other in facts.others)
    silence = limits.silence_without_peers if alone and facts.others else limits.silence
    if since is None:
        yield Violation(f"It is unknown how long {facts.node} has been silent.")
    elif facts.at - since <= silence:
        yield Violation(
            f"{facts.node} answered {max(0.0, (facts.at - since).total_seconds()):.1f} s ago. "
            f"It is killed only after {silence.total_seconds():.0f} s of silence.",
            retry_at=since + silence + timedelta(milliseconds=1),
        )


def _common_cause(facts: GuardFacts) -> Iterator[Violation]:
    if (found := facts.common_cause()) is not None:
        yield Violation(found.reason, retry_at=found.until)


def _one_of_role(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    """Another node of the role is being recovered, and has not yet had the time to serve again."""
    for other, began_at in sorted(facts.ledger.role_attempts.items()) if facts.ledger else ():
        if facts.at - began_at < limits.between_kills:
            yield Violation(
                f"{other} is being recovered and {facts.node} still runs. "
                "Only one running node of a role is killed at a time.",
                retry_at=began_at + limits.between_kills,
            )


def _breaker(facts: GuardFacts, limits: Limits, *, strict: bool) -> Iterator[Violation]:
    if facts.sick is None or not facts.fleet_size:
        if strict:
            yield Violation("It is unknown how many nodes of the fleet are down.")
    elif facts.sick / facts.fleet_size > limits.sick_share:
        yield Violation(
            f"{facts.sick} of {facts.fleet_size} nodes are down (breaker: above {limits.sick_share:.0%}). "
            "The cause is probably not this node. Nothing that still runs is killed."
        )


def _copies(facts: GuardFacts, what: str) -> Iterator[Violation]:
    if facts.role is Role.KAFKA:
        yield from _kafka_copies(facts.kafka, facts.node, what)
    elif facts.role is Role.CASSANDRA:
        yield from _cassandra_copies(facts.cassandra, facts.node, what)
    # Spark's nodes hold no data of their own: the offsets are in Kafka, the rows in Cassandra.


def _kafka_copies(kafka: KafkaFacts | None, node: str, what: str) -> Iterator[Violation]:
    if kafka is None or kafka.partitions is None or kafka.live is None:
        yield Violation(
            f"It is unknown which other brokers hold the partitions of {node}. Refused to {what}."
        )
    else:
        others = kafka.live - {kafka.node_id}
        alone = sorted(
            name
            for name, copies in kafka.partitions.items()
            if not (copies.in_sync | copies.eligible) & others
        )
        if alone:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            yield Violation(
                f"{node} may hold the last copy of {', '.join(alone[:3])}{more}: "
                f"no other live broker is in sync or an eligible leader. Refused to {what}."
            )
    if kafka is None or kafka.voters is None or kafka.current is None:
        yield Violation(f"It is unknown how many Kafka voters are caught up. Refused to {what}.")
    elif kafka.current < kafka.voters // 2 + 1:
        yield Violation(
            f"Without {node}, {kafka.current} of {kafka.voters} Kafka voters are caught up. "
            f"A quorum needs {kafka.voters // 2 + 1}. Refused to {what}."
        )


def _cassandra_copies(cassandra: CassandraFacts | None, node: str, what: str) -> Iterator[Violation]:
    cassandra = cassandra or CassandraFacts()
    replication, down = cassandra.replication, cassandra.others_down
    if replication is None:
        yield Violation(f"The replication factor of the keyspaces on {node} is unknown. Refused to {what}.")
    elif replication < 2:
        yield Violation(
            f"The replication factor is {replication}: {node} holds the only copy of its rows. "
            f"Refused to {what}.",
            passing=False,
        )
    if down is None:
        yield Violation(f"It is unknown how many other Cassandra nodes are down. Refused to {what}.")
    elif replication is not None and replication >= 2:
        spare = max(0, replication - 1 - (replication // 2 + 1))
        if down > spare:
            nodes = "node is" if down == 1 else "nodes are"
            yield Violation(
                f"{down} other Cassandra {nodes} down. With replication factor {replication} at most {spare} "
                f"may be down beside {node}. Refused to {what}."
            )


def _pending(facts: GuardFacts) -> Iterator[Violation]:
    if facts.ledger is None or facts.volume_intact is False:
        return  # _store reports that the ledger is unknown; a lost volume has no data left to lose
    for other in sorted(facts.ledger.pending):
        yield Violation(
            f"The data repair of {other} is not finished, and {facts.node} may hold the only copy of rows that "
            f"{other} is missing. Run recover_node for {other} to finish its repair first."
        )

"""May we act? Pure rules between a decision and its execution; a refusal is a list of sentences.

What is asked, by how much the action could cost:

| gate                                                      | restart, roll back | rebuild node | both |
|-----------------------------------------------------------|:---:|:---:|:---:|
| no maintenance flag on the node or the fleet              |  x  |  x  |  x  |
| repair budget: per node and for the fleet, in one hour    |  x  |  x  |  x  |
| a node that still serves can be spared by its peers       |  x  |     |     |
| not a protected node                                      |     |  x  |  x  |
| kill of a live node: nobody got an answer in the last 5 s | (k) |  x  |  x  |
| no common cause is likely (`common_cause`)                | (k) | (k) | (k) |
| one node of a role at a time                              | (k) | (k) | (k) |
| breaker: at most half of the fleet is sick                | (k) | (k) |  x  |
| last copy and quorum; replication of at least 2           |     |     |  x  |
| no repair of another node of this role is pending         |     |     | (x) |

(k) Asked only where something would be killed that may still run: where the platform says that the node does not run,
or the node says that its service does not, nothing is. After a power cut the whole fleet is sick, and starting it
again kills nothing.
(x) A pending repair doesn't matter where the volume is known to be gone: nothing is left that could be destroyed.
But the copies of Kafka are asked for even then: a replica that comes back empty as the only one in sync
makes the others truncate what they still have.

A node that anybody heard within 5 s is never killed, unless its platform says that it does not run. A role without
peers has nobody else who could have heard it, so there its silence must last 30 s.

Whatever isn't known refuses what destroys; a restart needs only that nothing known speaks against it.
The lease is no gate of this module: it is held or not, and the store checks it with each act.
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

APPROVE, DECLINE = "Approve", "Decline"  # what a person may answer to a refusal


class Guard(StrEnum):
    """What may refuse an action: a row of the table above, or that the store didn't say what it asks for."""

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
    """How much is allowed. The defaults let a night of chaos through and stop a loop."""

    repairs_per_node_and_hour: int = 6
    repairs_per_hour: int = 30
    sick_share: float = 0.5  # of the fleet; above it the breaker is open
    silence: timedelta = timedelta(seconds=5)  # a node heard more recently is never killed
    silence_without_peers: timedelta = timedelta(seconds=30)
    between_kills: timedelta = timedelta(seconds=60)  # of nodes of one role that still run
    observed_within: timedelta = timedelta(seconds=10)  # older facts don't count


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """Which brokers (by node id) hold a partition: in sync, and eligible as leader (KIP-966)."""

    in_sync: frozenset[int]
    eligible: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What the other brokers say. None where it isn't known.

    ``partitions``: every partition that this broker holds a replica of (``"trades-0"``). ``live``: brokers
    that answer. ``voters``: size of the quorum. ``current``: voters, this one left out, that answer and have
    caught up with the leader.
    """

    node_id: int
    partitions: Mapping[str, ReplicaCounts] | None = None
    live: frozenset[int] | None = None
    voters: int | None = None
    current: int | None = None


@dataclass(frozen=True, slots=True)
class CassandraFacts:
    """What the other Cassandra nodes say. None where it isn't known.

    ``replication``: the smallest of the keyspaces that matter. ``others_down``: other nodes not up/normal.
    """

    replication: int | None = None
    others_down: int | None = None


@dataclass(frozen=True, slots=True)
class GuardFacts:
    """All that the gates ask for. None = unknown. Times are UTC; ``at`` is now.

    ``observed_at``, ``service``, ``ssh``, ``last_seen_at``, ``volume_intact``: of the newest observation.
    ``first_failed_at``: of the incident; stands in for ``last_seen_at`` where nobody has ever heard the node.
    ``sick``: nodes of the fleet that don't serve, this one included. ``running``: the platform's answer.
    ``view``: what the node itself says of its service. ``others``: the other nodes of the fleet.
    ``starvation``: that processor time was missing. ``planned``: the service is stopped although it serves (a wrong
    clock, a roll-back, a person's word).
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
        """These facts with what the store knows at this moment."""
        return replace(self, ledger=ledger)

    @property
    def silent_since(self) -> datetime | None:
        """Since when nobody got an answer from the node; None when nobody can say."""
        return self.last_seen_at or self.first_failed_at

    @property
    def proven_dead(self) -> bool:
        """The platform says that the node does not run. A refused connection alone proves nothing."""
        return self.running is False and self.service is not ProbeResult.OK

    @property
    def process_ended(self) -> bool:
        """The node itself says that its init runs no process of the service: a restart kills nothing."""
        return self.view.listening is False and self.view.process is None

    @property
    def stuck(self) -> bool:
        """The service takes connections, also from its own node, and has answered none of them for 30 s.

        What its peers still hear of it then is gossip, not service.
        """
        since = self.first_failed_at
        silent = self.view.connected is True and self.view.answer not in (None, ProbeResult.OK)
        return silent and since is not None and self.at - since >= STUCK_AFTER

    def common_cause(self) -> CommonCause | None:
        """The cause that this node likely shares with others, None where it suffers alone."""
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
    """Whether the action is allowed; if not, why not, a sentence a reason, and which ``gates`` refused.

    ``passing``: all the reasons may go by themselves, so asking again later makes sense.
    ``retry_at``: when, where that is known.
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
    """Ask every gate that the action has to pass; all reasons of a refusal are given, not just the first.

    ``approved``: the gates that a person was told of and opened. The one against a wrong kill stays shut all the same:
    whoever wants a node destroyed that still answers has to stop it first.
    """
    if action is Action.AUTO:
        return GuardResult(False, ("auto is a request, not an action; decide first.",))
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
    """The gates that the action has to pass, each with what it objects."""
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
        yield Violation("Maintenance flags and repair budget are unknown: the store didn't say.")


def _maintenance(facts: GuardFacts) -> Iterator[Violation]:
    for flag in facts.ledger.maintenance if facts.ledger else ():
        yield Violation(f"Maintenance: {flag}", passing=False)


def _budget(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    ledger = facts.ledger
    if ledger is None:
        return
    if ledger.repairs_of_node >= limits.repairs_per_node_and_hour:
        yield Violation(
            f"{facts.node} was repaired {ledger.repairs_of_node} times within the hour (budget: "
            f"{limits.repairs_per_node_and_hour}); repairing it again won't help.",
            passing=False,
        )
    if ledger.repairs_of_fleet >= limits.repairs_per_hour:
        yield Violation(
            f"The fleet had {ledger.repairs_of_fleet} repairs within the hour "
            f"(budget: {limits.repairs_per_hour}).",
            passing=False,
        )


def _protected(facts: GuardFacts) -> Iterator[Violation]:
    if facts.protected is None:
        yield Violation(f"Whether {facts.node} is protected is unknown.")
    elif facts.protected:
        yield Violation(f"{facts.node} is protected: it is never destroyed without a person.", passing=False)


def _wrong_kill(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    if facts.observed_at is None or facts.at - facts.observed_at > limits.observed_within:
        yield Violation(f"Nobody has looked at {facts.node} just now; look again before it is killed.")
    if facts.service is ProbeResult.OK or facts.service is None:
        said = "answers its own protocol" if facts.service else "was not asked"
        yield Violation(f"{facts.node} {said}: a node that may serve is never killed.")
    if facts.view.answer is ProbeResult.OK:
        yield Violation(f"{facts.node} answers its own protocol on the node itself: it is never killed.")
    if not (facts.proven_dead or facts.stuck):
        yield from _heard(facts, limits)


def _heard(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    """The node, which may still run, was heard too recently by anybody."""
    since, alone = facts.silent_since, all(other.role is not facts.role for other in facts.others)
    silence = limits.silence_without_peers if alone and facts.others else limits.silence
    if since is None:
        yield Violation(f"Since when {facts.node} has been silent is unknown.")
    elif facts.at - since <= silence:
        yield Violation(
            f"{facts.node} answered {max(0.0, (facts.at - since).total_seconds()):.1f} s ago; "
            f"it is not killed before {silence.total_seconds():.0f} s of silence.",
            retry_at=since + silence + timedelta(milliseconds=1),
        )


def _common_cause(facts: GuardFacts) -> Iterator[Violation]:
    if (found := facts.common_cause()) is not None:
        yield Violation(found.reason, retry_at=found.until)


def _one_of_role(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    """Another node of the role is being repaired, and has not had the time to serve again."""
    for other, began_at in sorted(facts.ledger.role_attempts.items()) if facts.ledger else ():
        if facts.at - began_at < limits.between_kills:
            yield Violation(
                f"{other} is being repaired; {facts.node} still runs, and one node of a role is killed at a time.",
                retry_at=began_at + limits.between_kills,
            )


def _breaker(facts: GuardFacts, limits: Limits, *, strict: bool) -> Iterator[Violation]:
    if facts.sick is None or not facts.fleet_size:
        if strict:
            yield Violation("How much of the fleet is sick is unknown.")
    elif facts.sick / facts.fleet_size > limits.sick_share:
        yield Violation(
            f"{facts.sick} of {facts.fleet_size} nodes are sick (breaker: above {limits.sick_share:.0%}): "
            "the cause is probably not this node, and nothing that still runs is killed."
        )


def _copies(facts: GuardFacts, what: str) -> Iterator[Violation]:
    if facts.role is Role.KAFKA:
        yield from _kafka_copies(facts.kafka, facts.node, what)
    elif facts.role is Role.CASSANDRA:
        yield from _cassandra_copies(facts.cassandra, facts.node, what)
    # Spark's nodes hold no data that isn't elsewhere: offsets are in Kafka, rows in Cassandra.


def _kafka_copies(kafka: KafkaFacts | None, node: str, what: str) -> Iterator[Violation]:
    if kafka is None or kafka.partitions is None or kafka.live is None:
        yield Violation(f"Which brokers hold the partitions of {node} is unknown; won't {what}.")
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
                f"no other live broker is in sync or an eligible leader; won't {what}."
            )
    if kafka is None or kafka.voters is None or kafka.current is None:
        yield Violation(f"How many Kafka voters are current is unknown; won't {what}.")
    elif kafka.current < kafka.voters // 2 + 1:
        yield Violation(
            f"Only {kafka.current} of the {kafka.voters} Kafka voters beside {node} are current; "
            f"a quorum needs {kafka.voters // 2 + 1}; won't {what}."
        )


def _cassandra_copies(cassandra: CassandraFacts | None, node: str, what: str) -> Iterator[Violation]:
    cassandra = cassandra or CassandraFacts()
    replication, down = cassandra.replication, cassandra.others_down
    if replication is None:
        yield Violation(f"The replication of the keyspaces on {node} is unknown; won't {what}.")
    elif replication < 2:
        yield Violation(
            f"Replication is {replication}: {node} holds the only copy of its rows; won't {what}.",
            passing=False,
        )
    if down is None:
        yield Violation(f"How many Cassandra nodes beside {node} are down is unknown; won't {what}.")
    elif replication is not None and replication >= 2:
        spare = max(0, replication - 1 - (replication // 2 + 1))
        if down > spare:
            nodes = "node is" if down == 1 else "nodes are"
            yield Violation(
                f"{down} other Cassandra {nodes} down, and with replication {replication} "
                f"no more than {spare} may be without {node}; won't {what}."
            )


def _pending(facts: GuardFacts) -> Iterator[Violation]:
    if facts.ledger is None or facts.volume_intact is False:
        return  # unknown is said by _store; of a lost volume nothing is left to lose
    for other in sorted(facts.ledger.pending):
        yield Violation(
            f"the data of {other} isn't whole yet; "
            f"{facts.node} may hold the only copy of what it lacks. recover_node for {other} finishes its repair."
        )

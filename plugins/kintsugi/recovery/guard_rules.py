"""The rules of the guards, each as a function that yields its violations; see `kintsugi.recovery.guards`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from kintsugi.core.fleet import Role
from kintsugi.core.observation import ProbeResult
from kintsugi.recovery.guard_model import CassandraFacts, GuardFacts, KafkaFacts, Limits, Violation


def database_violations(facts: GuardFacts, *, strict: bool) -> Iterator[Violation]:
    if facts.ledger is None and strict:
        yield Violation(
            "Maintenance flags and repair budget are unknown: Postgres did not return them. "
            "Nothing is destroyed without them."
        )


def maintenance_violations(facts: GuardFacts) -> Iterator[Violation]:
    for flag in facts.ledger.maintenance if facts.ledger else ():
        yield Violation(f"Maintenance: {flag}", passing=False)


def budget_violations(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
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


def protection_violations(facts: GuardFacts) -> Iterator[Violation]:
    if facts.protected is None:
        yield Violation(f"It is unknown whether {facts.node} is protected.")
    elif facts.protected:
        yield Violation(
            f"{facts.node} is protected: it is destroyed only if a person approves.", passing=False
        )


def live_kill_violations(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    # A node that its platform proves dead can't return meanwhile. To ask a large fleet takes longer than the limit.
    outdated = facts.observed_at is not None and facts.at - facts.observed_at > limits.observed_within
    if facts.observed_at is None or (outdated and not facts.proven_dead):
        yield Violation(
            f"The last observation of {facts.node} is older than "
            f"{limits.observed_within.total_seconds():.0f} s. It is observed again before anything is killed."
        )
    if facts.service is ProbeResult.OK or facts.service is None:
        state = "answers its own protocol" if facts.service else "was not probed"
        yield Violation(f"{facts.node} {state}. A node that may serve is never killed.")
    if facts.view.answer is ProbeResult.OK:
        yield Violation(
            f"{facts.node} answers its own protocol when it is asked from the node itself. "
            "A live node is never killed."
        )
    if not (facts.proven_dead or facts.stuck or facts.view.misplaced):
        yield from _recent_answer_violations(facts, limits)


def _recent_answer_violations(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    """A node that may still run was heard too recently."""
    since, alone = facts.silent_since, all(other.role is not facts.role for other in facts.others)
    silence = limits.silence_without_peers if alone and facts.others else limits.silence
    if since is None:
        yield Violation(f"It is unknown how long {facts.node} has been silent.")
    elif facts.heard_within(silence):
        yield Violation(
            f"{facts.node} answered {_seconds_before(facts, since):.1f} s ago, and was last asked "
            f"{_seconds_before(facts, facts.observed_at or facts.at):.1f} s ago. "
            f"It is killed only after {silence.total_seconds():.0f} s of silence.",
            retry_at=since + silence + timedelta(milliseconds=1),
        )


def _seconds_before(facts: GuardFacts, moment: datetime) -> float:
    return max(0.0, (facts.at - moment).total_seconds())


def common_cause_violations(facts: GuardFacts) -> Iterator[Violation]:
    if (cause := facts.common_cause()) is not None:
        yield Violation(cause.reason, retry_at=cause.until)


def same_role_violations(facts: GuardFacts, limits: Limits) -> Iterator[Violation]:
    """Another node of the role is being recovered, and has not yet had the time to serve again."""
    for other, began_at in sorted(facts.ledger.role_attempts.items()) if facts.ledger else ():
        if facts.at - began_at < limits.between_kills:
            yield Violation(
                f"{other} is being recovered and {facts.node} still runs. "
                "Only one running node of a role is killed at a time.",
                retry_at=began_at + limits.between_kills,
            )


def breaker_violations(facts: GuardFacts, limits: Limits, *, strict: bool) -> Iterator[Violation]:
    if facts.sick is None or not facts.fleet_size:
        if strict:
            yield Violation("It is unknown how many nodes of the fleet are down.")
    elif facts.sick / facts.fleet_size > limits.sick_share:
        yield Violation(
            f"{facts.sick} of {facts.fleet_size} nodes are down (breaker: above {limits.sick_share:.0%}). "
            "The cause is probably not this node. Nothing that still runs is killed."
        )


def replica_violations(facts: GuardFacts, what: str) -> Iterator[Violation]:
    if facts.role is Role.KAFKA:
        yield from _kafka_violations(facts.kafka, facts.node, what)
    elif facts.role is Role.CASSANDRA:
        yield from _cassandra_violations(facts.cassandra, facts.node, what)
    # Spark's nodes hold no data of their own: the offsets are in Kafka, the rows in Cassandra.


def _kafka_violations(kafka: KafkaFacts | None, node: str, what: str) -> Iterator[Violation]:
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


def _cassandra_violations(cassandra: CassandraFacts | None, node: str, what: str) -> Iterator[Violation]:
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


def pending_repair_violations(facts: GuardFacts) -> Iterator[Violation]:
    if facts.ledger is None or facts.volume_intact is False:
        return  # database_violations reports that the ledger is unknown; a lost volume has no data left to lose
    for other in sorted(facts.ledger.pending):
        yield Violation(
            f"The data repair of {other} is not finished, and {facts.node} may hold the only copy of rows that "
            f"{other} is missing. Run recover_node for {other} to finish its repair first."
        )

"""The partitions of the running Kafka cluster: where their replicas are, and moving them at a bounded rate.

Kafka itself carries a reassignment out: it adds the new replicas, waits until they are in sync, then removes the old
ones. So a partition never has fewer replicas than before, and a killed caller leaves nothing half done.

The rate is bounded by Kafka's replication quotas. A quota counts only for replicas that are out of sync, so the topics
that move have it for all their replicas.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.errors import StepFailed
from kintsugi.operations import verification_kafka
from kintsugi.scaling.partition_moves import Assignment, Brokers, moves

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

PINNED = (verification_kafka.TOPIC,)
BATCH = 2  # partitions that move at the same time
POLL_S = 1.0
RATES = ("leader.replication.throttled.rate", "follower.replication.throttled.rate")
REPLICAS = ("leader.replication.throttled.replicas", "follower.replication.throttled.replicas")

Partition = tuple[str, int]
Say = Callable[[str], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition now. ``replicas``: those that it has when its reassignment has ended, the preferred leader first."""

    replicas: tuple[int, ...]
    in_sync: frozenset[int]
    moving: bool = False


@contextmanager
def open_admin(bootstrap: list[str]) -> Iterator[KafkaAdminClient]:
    """Open an admin client as ``recovery``, a superuser. Raises StepFailed for each error of Kafka in the block."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, request_timeout_ms=20_000, **kafka_options(Principal.RECOVERY)
        )
        try:
            yield admin
        finally:
            admin.close()
    except KafkaError as error:
        raise StepFailed(
            f"Kafka refused or did not answer: {error!r}; the next run goes on from there"
        ) from error


def read_partition_states(admin: KafkaAdminClient) -> dict[Partition, PartitionState]:
    """Return every partition, those of internal topics too."""
    moving = {
        (partition.topic, partition.partition): reassignment
        for partition, reassignment in admin.list_partition_reassignments().items()
    }
    states = {}
    for topic in admin.describe_topics():
        for entry in topic["partitions"]:
            key = (str(topic["name"]), int(entry["partition_index"]))
            states[key] = _state_of(entry, moving.get(key))
    return states


def _state_of(entry: Mapping[str, Any], reassignment: Mapping[str, Any] | None) -> PartitionState:
    in_sync = frozenset(entry["isr_nodes"])
    if reassignment is None:
        return PartitionState(tuple(entry["replica_nodes"]), in_sync)
    leaving = set(reassignment["removing_replicas"])
    after = tuple(one for one in reassignment["replicas"] if one not in leaving)
    return PartitionState(after, in_sync, moving=True)


def assignment_of(states: Mapping[Partition, PartitionState]) -> Assignment:
    """Return the replicas that each partition has when the reassignments under way have ended."""
    return {partition: state.replicas for partition, state in states.items()}


def hosted_on(states: Mapping[Partition, PartitionState], broker: int) -> list[str]:
    """Return the partitions that have a replica on the broker, or will have one, sorted, as ``topic-number``."""
    return sorted(
        f"{topic}-{number}"
        for (topic, number), state in states.items()
        if broker in state.replicas or broker in state.in_sync
    )


def move_replicas(
    bootstrap: list[str],
    brokers: Brokers,
    *,
    rate: int,
    say: Say,
    give_up: Callable[[], str | None],
    idle_s: float = 900.0,
) -> int:
    """Move replicas, a few partitions at a time, until the assignment is the target; returns how many partitions moved.

    ``rate``: bytes a second for each broker. ``give_up``: asked between two looks; a reason ends the moves, and Kafka
    finishes those that it has begun. Raises StepFailed with that reason, or when nothing has changed for ``idle_s``.
    """
    moved, progress_at, before = 0, time.monotonic(), None
    asked: dict[Partition, tuple[int, ...]] = {}
    with open_admin(bootstrap) as admin:
        with limits_lifted_at_the_end(admin):
            while True:
                states = read_partition_states(admin)
                open_moves = open_partitions(states, brokers, asked)
                due = {} if open_moves else moves(assignment_of(states), brokers, PINNED)
                if not open_moves and not due:
                    break
                if (now := (open_moves, len(due))) != before:
                    before, progress_at = now, time.monotonic()
                    if due:
                        say(f"Kafka: {len(due)} partitions are to move; {moved} have moved")
                if (reason := give_up()) is not None:
                    raise StepFailed(f"the moves of partitions were stopped: {reason}")
                if time.monotonic() - progress_at > idle_s:
                    raise StepFailed(f"no partition became in sync for {idle_s:.0f} s: {_named(open_moves)}")
                if not open_moves:
                    batch = dict(sorted(due.items())[:BATCH])
                    limit_rate(admin, brokers.racks, {topic for topic, _ in batch}, states, rate)
                    reassign(admin, batch)
                    asked |= batch
                    moved += len(batch)
                time.sleep(POLL_S)
        elect_preferred_leaders(admin, states)
    return moved


@contextmanager
def limits_lifted_at_the_end(admin: KafkaAdminClient) -> Iterator[None]:
    """Remove every bound of the rate after the block, also after a failure: else it would slow a repair down."""
    from kafka.errors import KafkaError

    try:
        yield
    except BaseException:  # Airflow's time-out is not a subclass of Exception
        try:
            lift_limits(admin, read_partition_states(admin))
        except KafkaError as error:  # the failure itself says more
            log.warning("Kafka keeps the bounds of the rate until the next run: %r", error)
        raise
    lift_limits(admin, read_partition_states(admin))


def open_partitions(
    states: Mapping[Partition, PartitionState], brokers: Brokers, asked: Assignment
) -> list[Partition]:
    """Return the partitions to wait for, sorted. Pure.

    One that moves; of which a replica that stays is out of sync (a broker that leaves may be dead); or that the broker
    which was asked still describes as it was before its move ended. ``asked``: the replicas that were asked for.
    """
    return sorted(
        partition
        for partition, state in states.items()
        if state.moving
        or not set(state.replicas) & brokers.racks.keys() <= state.in_sync
        or set(state.replicas) != set(asked.get(partition, state.replicas))
        or len(state.replicas) > len(brokers.racks)
    )


def _named(partitions: Iterable[Partition]) -> str:
    return ", ".join(f"{topic}-{number}" for topic, number in sorted(partitions)[:5])


def reassign(admin: KafkaAdminClient, batch: Assignment) -> None:
    """Ask Kafka for these replicas. Raises StepFailed if it refuses one."""
    from kafka import TopicPartition

    answers = admin.alter_partition_reassignments(
        {TopicPartition(topic, number): list(replicas) for (topic, number), replicas in batch.items()}
    )
    refused = [f"{one.topic}-{one.partition}: {error.__name__}" for one, error in answers.items() if error]
    if refused:
        raise StepFailed(f"Kafka refused to move {', '.join(refused)}")


def limit_rate(
    admin: KafkaAdminClient,
    brokers: Collection[int],
    topics: Collection[str],
    states: Mapping[Partition, PartitionState],
    rate: int,
) -> None:
    """Bound the rate at which replicas of ``topics`` that are out of sync are filled, in bytes a second a broker."""
    present = {one for state in states.values() for one in (*state.replicas, *state.in_sync)}
    _alter(
        admin,
        {("BROKER", str(broker)): dict.fromkeys(RATES, str(rate)) for broker in {*brokers, *present}}
        | {("TOPIC", topic): dict.fromkeys(REPLICAS, "*") for topic in topics},
        delete=False,
    )


def lift_limits(admin: KafkaAdminClient, states: Mapping[Partition, PartitionState]) -> None:
    """Remove every bound of the rate, also what a killed run has left."""
    live = [entry["broker_id"] for entry in admin.describe_cluster()["brokers"] if not entry.get("is_fenced")]
    _alter(
        admin,
        {("BROKER", str(broker)): dict.fromkeys(RATES, "") for broker in live}
        | {("TOPIC", topic): dict.fromkeys(REPLICAS, "") for topic in {topic for topic, _ in states}},
        delete=True,
    )


def _alter(
    admin: KafkaAdminClient, values: Mapping[tuple[str, str], Mapping[str, str]], *, delete: bool
) -> None:
    from kafka.admin import ConfigResource

    resources = [
        ConfigResource(
            kind, name, {key: ("DELETE", None) if delete else ("SET", value) for key, value in wanted.items()}
        )
        for (kind, name), wanted in values.items()
    ]
    if resources:
        admin.alter_configs(resources, raise_on_unknown=False, incremental=True)


def elect_preferred_leaders(admin: KafkaAdminClient, states: Mapping[Partition, PartitionState]) -> None:
    """Let the first replica of each partition lead it; one that can't yet is left to Kafka, which does it later."""
    from kafka.errors import KafkaError

    topics: dict[str, list[int]] = {}
    for topic, number in states:
        topics.setdefault(topic, []).append(number)
    try:
        admin.elect_leaders(0, topics)
    except KafkaError as error:
        log.info("not every preferred leader was elected: %r", error)


def replica_sizes(admin: KafkaAdminClient, brokers: list[int]) -> dict[tuple[Partition, int], int]:
    """Return the bytes of each replica on these brokers, by partition and broker."""
    sizes = {}
    for answer in admin.describe_log_dirs(brokers=brokers):
        for directory in answer["log_dirs"]:
            for topic in directory["topics"]:
                name = topic.get("name", topic.get("topic"))
                for entry in topic["partitions"]:
                    key = (str(name), int(entry["partition_index"]))
                    sizes[key, int(answer["broker"])] = int(entry["partition_size"])
    return sizes

"""Which replicas of Kafka partitions move when brokers are added or removed. Pure.

1.  A replica on a broker that leaves moves to the broker with the fewest replicas that has none of the partition. A
    broker in a rack without a replica of the partition comes first.
2.  Then replicas move from the broker with the most to the one with the fewest, until their numbers differ by one at
    most. A move never puts two replicas of a partition into one rack that were in two.
3.  Then the first replicas (the preferred leaders) are spread in the same way. That moves no data.

Of a pinned topic only the replicas on brokers that leave move: its partitions belong to certain brokers.

Each partition keeps its number of replicas. The result follows from the present assignment alone, and a result that was
reached gives no more moves. So the moves can be computed again after each batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

Assignment = Mapping[tuple[str, int], tuple[int, ...]]
"""The replicas of each partition (topic, number) by broker id; the first is the preferred leader."""


@dataclass(frozen=True, slots=True)
class Brokers:
    """The brokers that stay or come, with their racks (None: no rack), by id."""

    racks: Mapping[int, str | None]

    def racks_of(self, replicas: Collection[int]) -> int:
        """Return over how many racks these replicas are spread; without racks each broker is one."""
        return len({self.racks.get(broker) or broker for broker in replicas})


def target_assignment(
    present: Assignment, brokers: Brokers, pinned: Collection[str] = ()
) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return the assignment to reach. Raises ValueError if a partition has more replicas than there are brokers.

    ``pinned``: topics whose replicas stay where they are, if their brokers stay.
    """
    target = {partition: list(replicas) for partition, replicas in sorted(present.items())}
    _leave(target, brokers)
    free = {partition: replicas for partition, replicas in target.items() if partition[0] not in pinned}
    _balance(free, brokers)
    _balance_leaders(free, brokers)
    return {partition: tuple(replicas) for partition, replicas in (target | free).items()}


def moves(
    present: Assignment, brokers: Brokers, pinned: Collection[str] = ()
) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return the partitions whose replicas change, with their new replicas; see `target_assignment`."""
    return {
        partition: replicas
        for partition, replicas in target_assignment(present, brokers, pinned).items()
        if replicas != present[partition]
    }


def _leave(target: dict[tuple[str, int], list[int]], brokers: Brokers) -> None:
    loads = _loads(target, brokers)
    for partition, replicas in target.items():
        for place, broker in enumerate(replicas):
            if broker in brokers.racks:
                continue
            others = [other for other in replicas if other != broker]
            candidates = [other for other in brokers.racks if other not in replicas]
            if not candidates:
                raise ValueError(
                    f"{partition[0]}-{partition[1]} has {len(replicas)} replicas, more than brokers"
                )
            chosen = min(candidates, key=lambda one: (-brokers.racks_of([*others, one]), loads[one], one))
            replicas[place] = chosen
            loads[chosen] += 1


def _balance(target: dict[tuple[str, int], list[int]], brokers: Brokers) -> None:
    loads = _loads(target, brokers)
    while (step := _next_move(target, brokers, loads)) is not None:
        partition, giver, taker = step
        replicas = target[partition]
        replicas[replicas.index(giver)] = taker
        loads[giver] -= 1
        loads[taker] += 1


def _next_move(
    target: dict[tuple[str, int], list[int]], brokers: Brokers, loads: Counter[int]
) -> tuple[tuple[str, int], int, int] | None:
    """Return a replica that moves from a fuller broker to an emptier one: the partition, from where, to where."""
    for taker in sorted(brokers.racks, key=lambda one: (loads[one], one)):
        for giver in sorted(brokers.racks, key=lambda one: (-loads[one], one)):
            if loads[giver] - loads[taker] <= 1:
                break
            for partition, replicas in target.items():
                if giver not in replicas or taker in replicas:
                    continue
                after = [taker if one == giver else one for one in replicas]
                if brokers.racks_of(after) >= brokers.racks_of(replicas):
                    return partition, giver, taker
    return None


def _balance_leaders(target: dict[tuple[str, int], list[int]], brokers: Brokers) -> None:
    leads = Counter(dict.fromkeys(brokers.racks, 0))
    leads.update(replicas[0] for replicas in target.values())
    while True:
        step = _next_leader(target, leads)
        if step is None:
            return
        partition, taker = step
        replicas = target[partition]
        place = replicas.index(taker)
        leads[replicas[0]] -= 1
        leads[taker] += 1
        replicas[0], replicas[place] = replicas[place], replicas[0]


def _next_leader(
    target: Mapping[tuple[str, int], list[int]], leads: Counter[int]
) -> tuple[tuple[str, int], int] | None:
    for taker in sorted(leads, key=lambda one: (leads[one], one)):
        for partition, replicas in target.items():
            if taker in replicas[1:] and leads[replicas[0]] - leads[taker] > 1:
                return partition, taker
    return None


def _loads(target: Mapping[tuple[str, int], list[int]], brokers: Brokers) -> Counter[int]:
    loads = Counter(dict.fromkeys(brokers.racks, 0))
    loads.update(broker for replicas in target.values() for broker in replicas if broker in brokers.racks)
    return loads

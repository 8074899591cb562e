"""The terms of the guards: their names, limits, facts and result. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from kintsugi.core.fleet import Role
from kintsugi.core.incident import RepairBudget
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


DEFAULT_LIMITS = Limits()


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
    ``zone``: of the node, None if it has none. ``starvation``: set if processor time was missing. ``planned``: the
    service is to be stopped although it serves (clock skew, a roll-back, a person's request).
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
    zone: str | None = None

    def with_ledger(self, ledger: RepairBudget) -> GuardFacts:
        """Return these facts with the maintenance flags and repair counts that the database holds now."""
        return replace(self, ledger=ledger)

    def heard_within(self, silence: timedelta) -> bool | None:
        """Whether anybody got an answer less than ``silence`` before the newest observation; None if unknown.

        It counts from the question to the node, not from the end of the observation, which may take 8 s.
        """
        if (since := self.silent_since) is None:
            return None
        return min(self.observed_at or self.at, self.at) - since <= silence

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
        """Whether the node's init says that no process of the service runs. Then a restart kills nothing."""
        return self.view.listening is False and self.view.ended is True

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
            zone=self.zone,
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

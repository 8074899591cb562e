"""What can be observed of a node: the types that probes produce and decisions use. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kintsugi.core.fleet import Role


class ProbeResult(StrEnum):
    """How one probe of one endpoint ended."""

    OK = "ok"  # answered its own protocol
    REFUSED = "refused"  # nothing listens: the process or the host is gone
    TIMEOUT = "timeout"  # no answer: hung, overloaded, or the host is unreachable
    WRONG = "wrong"  # gave an answer that is invalid in its protocol


class Symptom(StrEnum):
    """What the watch concludes from a run of failed probes."""

    DOWN = "down"  # refused for several probes in a row
    HUNG = "hung"  # silent for longer than the longest allowed pause
    CLOCK_WRONG = "clock_wrong"  # serves, but its clock differs from its peers' clocks


@dataclass(frozen=True, slots=True)
class Finding:
    """A sensor's event: ``node`` seems to be down. Times are UTC; ``evidence``: sentences for people.

    ``late_s``: for how many seconds since the first failed probe the watch itself was blocked.
    """

    node: str
    symptom: Symptom
    first_failed_at: datetime
    detected_at: datetime
    evidence: tuple[str, ...]
    late_s: float = 0.0


class PeerOpinion(StrEnum):
    """What one peer reports of a node."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"  # the peer didn't answer, or does not know the node


@dataclass(frozen=True, slots=True)
class Headroom:
    """Room on a node's volume, in bytes: what a service can still write, and the total size."""

    free: int
    size: int


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """One process of a node's service: its id as the node sees it, and its start in clock ticks since boot."""

    pid: int
    start_time: int

    def __str__(self) -> str:
        return f"{self.pid}@{self.start_time}"


@dataclass(frozen=True, slots=True)
class ProcessorUse:
    """Processor use within ``seconds``: for how many seconds the threads used the processor, and waited for it."""

    seconds: float
    used_s: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the node itself reports of its service, asked over SSH. None means unknown.

    ``process``: the service's process. ``cpu_s``: processor time that it has used. ``listening``: whether a socket
    listens on the service's port. ``connected``: whether the node could connect to that port. ``answer``: the service's
    answer to a probe from the node. ``processor``: how it used the processor meanwhile. ``elsewhere``: endpoints
    (``address:port``) on which the process listens and which aren't its own, as after a wrong configuration.
    ``ended``: whether the init says that it runs no process of the service; an init that doesn't answer says nothing.
    """

    process: ServiceProcess | None = None
    cpu_s: float | None = None
    listening: bool | None = None
    connected: bool | None = None
    answer: ProbeResult | None = None
    processor: ProcessorUse | None = None
    elsewhere: tuple[str, ...] = ()
    ended: bool | None = None

    @property
    def misplaced(self) -> bool:
        """Whether the service is up, but listens on other endpoints instead of its own port."""
        return self.listening is False and bool(self.elsewhere)


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything known of a node at one time, gathered for a second opinion. None means unknown.

    ``service`` and ``ssh``: answers of the node's own protocol and its sshd. ``init_state``: the service's state by the
    node's init (supervisord's RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL).
    ``volume_intact``: whether the data directory exists and was formatted. ``room``: how much of the volume is free.
    ``peers``: opinion by peer name. ``progress``: a sentence if the service is starting and makes progress (it replays
    a log or streams), else None. ``damage``: a sentence if the service just logged that it can't read its data, else
    None. ``last_seen_at``: when the node last answered anybody, UTC.
    ``unanswered_since``: since when its watch got no answer from the service, UTC; None if no watch found it silent.
    ``clock_ahead_s``: seconds by which the service's clock is certainly fast (negative: slow).
    ``running``: the platform's answer: whether the node's process tree, container or instance runs.
    ``view``: what the node itself reports of its service.
    """

    node: str
    role: Role
    at: datetime
    service: ProbeResult
    ssh: ProbeResult
    init_state: str | None = None
    volume_intact: bool | None = None
    room: Headroom | None = None
    peers: Mapping[str, PeerOpinion] = field(default_factory=dict)
    progress: str | None = None
    damage: str | None = None
    last_seen_at: datetime | None = None
    unanswered_since: datetime | None = None
    clock_ahead_s: float | None = None
    running: bool | None = None
    view: NodeView = field(default_factory=NodeView)

"""What can be seen of a node: the types that probes produce and decisions consume. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kintsugi.core.fleet import Role


class ProbeResult(StrEnum):
    """How one probe of one endpoint ended."""

    OK = "ok"  # answered its own protocol
    REFUSED = "refused"  # nobody listens: the process or the host is gone
    TIMEOUT = "timeout"  # silence: hung, overloaded, or the host is unreachable
    WRONG = "wrong"  # answered, but not as the protocol demands


class Symptom(StrEnum):
    """What the watch concludes from a run of failed probes."""

    DOWN = "down"  # refused for several probes in a row
    HUNG = "hung"  # silent for longer than a pause may last
    CLOCK_WRONG = "clock_wrong"  # serves, by a clock that isn't everybody's


@dataclass(frozen=True, slots=True)
class Finding:
    """A sensor's event: ``node`` looks sick. Times are UTC; ``evidence`` is fit to be shown.

    ``late_s``: seconds, since the first failed probe, for which the watcher itself stood still.
    """

    node: str
    symptom: Symptom
    first_failed_at: datetime
    detected_at: datetime
    evidence: tuple[str, ...]
    late_s: float = 0.0


class PeerOpinion(StrEnum):
    """What one peer says of a node."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"  # the peer didn't answer, or has never heard of the node


@dataclass(frozen=True, slots=True)
class Headroom:
    """Room on a node's volume, in bytes: what a service may still write, and the size of the whole."""

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
    """What processes did within ``seconds``: seconds that their threads used the processor, and waited for it."""

    seconds: float
    used_s: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the node itself says of its service, asked over SSH. None where the node could not say.

    ``process``: the service's process; None with ``listening`` known: the init runs none. ``cpu_s``: processor time
    that the process has used. ``listening``: whether a socket listens on the service's port. ``connected``: whether a
    connection from the node to that port came about. ``answer``: what the service answered to a probe from the node.
    ``processor``: how it used the processor meanwhile.
    """

    process: ServiceProcess | None = None
    cpu_s: float | None = None
    listening: bool | None = None
    connected: bool | None = None
    answer: ProbeResult | None = None
    processor: ProcessorUse | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything known of a node at one moment, gathered for a second opinion.

    ``service`` and ``ssh``: the node's own protocol and its sshd. ``init_state``: what the node's init says of the
    service (supervisord's word: RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL), None when nobody could ask.
    ``volume_intact``: whether the data directory is there and was formatted, None when nobody could look.
    ``room``: how much of the volume is free, None when nobody could look.
    ``peers``: opinion by peer name. ``progress``: a sentence when the service is starting and advancing
    (replaying a log, streaming), else None. ``damage``: a sentence when the service just said that it can't read its
    data, else None. ``last_seen_at``: when the node last answered anybody, UTC.
    ``unanswered_since``: since when its watch has got no answer from the service, UTC, None when no watch found it
    silent.
    ``clock_ahead_s``: seconds by which the service's clock is certainly fast (negative: slow), None when unknown.
    ``running``: the platform's answer: whether the node's process tree, container or instance runs; None when unknown.
    ``view``: what the node itself says of its service.
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

"""What can be seen of a node: the types that probes produce and decisions consume. No I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from kintsugi.fleet import Role


class Answer(StrEnum):
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
    """A sensor's event: ``node`` looks sick. Times are UTC; ``evidence`` is fit to be shown."""

    node: str
    symptom: Symptom
    first_failed_at: datetime
    detected_at: datetime
    evidence: tuple[str, ...]


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
class Observation:
    """Everything known of a node at one moment, gathered for a second opinion.

    ``service`` and ``ssh``: the node's own protocol and its sshd. ``init_state``: what the node's init says of the
    service (supervisord's word: RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL), None when nobody could ask.
    ``volume_intact``: whether the data directory is there and was formatted, None when nobody could look.
    ``room``: how much of the volume is free, None when nobody could look.
    ``peers``: opinion by peer name. ``progress``: a sentence when the service is starting and advancing
    (replaying a log, streaming), else None. ``damage``: a sentence when the service just said that it can't read its
    data, else None. ``heard_at``: when the node last answered anybody, UTC.
    ``unanswered_since``: since when its watch has got no answer from the service, UTC, None when no watch found it
    silent.
    ``clock_ahead_s``: seconds by which the service's clock is certainly fast (negative: slow), None when unknown.
    """

    node: str
    role: Role
    at: datetime
    service: Answer
    ssh: Answer
    init_state: str | None = None
    volume_intact: bool | None = None
    room: Headroom | None = None
    peers: Mapping[str, PeerOpinion] = field(default_factory=dict)
    progress: str | None = None
    damage: str | None = None
    heard_at: datetime | None = None
    unanswered_since: datetime | None = None
    clock_ahead_s: float | None = None

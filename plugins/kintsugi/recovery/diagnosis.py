"""From what was seen of a node to what is wrong with it: pure, and a sentence for a human at 2 a.m.

The rules, in order; the first that fits decides:

1.  The service answers its own protocol → **false alarm**, whatever else is odd; oddities are named. But where its
    clock isn't that of everybody else → **clock wrong**.
2.  Neither service nor sshd answers, and the platform says that nothing of the node runs → **host lost**. The
    platform's word is proof: peers that still say "up" are behind (Cassandra's gossip takes 10 to 18 s to notice).
3.  The volume is known to be gone and the host answers → **disk lost**.
4.  The service is silent, but answered anybody less than 8 s ago → **false alarm**: a pause (a
    collection, a slow disk) of up to 5 s is never an incident. What its peers hear doesn't count where the host
    answers us and the service hasn't for 8 s: gossip and replication may live on in a service that serves nobody.
5.  Neither service nor sshd answers, each refused or silent. A refusal proves nothing: a firewall refuses in the
    place of a server that lives. So the peers decide. One that says "up" → **partitioned**. None of them could say →
    **partitioned** where the platform is unknown too (it may be us who are cut off). Else → **host lost**.
6.  The host answers, the service doesn't, and its disk has no room left → **disk full**, also while the init starts
    the service again: it won't come up before something is deleted, and what may be deleted nobody knows.
7.  It refuses and has just said that it can't read its data → **data damaged**, also while the init starts it again:
    it reads the same once more.
8.  The service answers a probe from the node itself, or its socket listens although we are refused →
    **partitioned**: something between us and it is at fault.
9.  The init reports progress, or is just starting the service → **starting**.
10. The init has given up on the service (FATAL) or sees it exit again and again (BACKOFF), or the
    service answers in a wrong way → **misconfigured**.
11. The service is silent while the host is there. Its peers hear it and not even a connection comes about →
    **partitioned**. Its peers hear it, and it has been silent for less than 30 s → **false alarm**. Else → **hung**.
12. The service refuses while the host is there → **process down**.

"The host is there" means that sshd answered, or that the service's port answered in any way and sshd is silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from kintsugi.core.observation import Headroom, Observation, PeerOpinion, ProbeResult
from kintsugi.probes.clock_skew import is_skewed

HANG_AFTER = timedelta(seconds=8)
"""Silence shorter than this is a pause. Pauses of up to 5 s are allowed; hangs are declared from 8 s on."""

LIVE_WITHIN = timedelta(seconds=5)
"""A node that anybody heard within this time is alive, unless its platform says that it does not run."""

STUCK_AFTER = timedelta(seconds=30)
"""A service that its peers hear, but that serves no client for so long, is stuck and no longer slow."""

FULL_BELOW = 64 * 2**20
"""Bytes. With less no service starts: Cassandra begins with commit log segments, Kafka with an index of each log."""


class FailureMode(StrEnum):
    """What is wrong with a node."""

    FALSE_ALARM = "false_alarm"
    STARTING = "starting"
    PROCESS_DOWN = "process_down"
    HUNG = "hung"
    HOST_LOST = "host_lost"
    DISK_LOST = "disk_lost"
    DISK_FULL = "disk_full"
    DATA_DAMAGED = "data_damaged"
    CLOCK_WRONG = "clock_wrong"
    PARTITIONED = "partitioned"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A verdict and the reason for it: one English sentence that names what was seen."""

    verdict: FailureMode
    reason: str


def diagnose(observation: Observation) -> Diagnosis:
    """What is wrong with the node, by the rules above. Never raises; always says something."""
    seen = observation
    if seen.service is ProbeResult.OK:
        return _serving(seen)
    if seen.running is False and seen.ssh is not ProbeResult.OK:
        return _say(
            FailureMode.HOST_LOST,
            f"{seen.node} does not run: its platform says so, and neither its service nor its sshd answers"
            f"{_stale_peers(seen)}{_volume(seen)}",
        )
    if seen.volume_intact is False and seen.ssh is ProbeResult.OK:
        return _say(FailureMode.DISK_LOST, f"{seen.node} answers ssh, but its data directory is gone")
    pause = None if _serves_nobody(seen) else _silence(seen)
    if seen.service is ProbeResult.TIMEOUT and pause is not None and pause < HANG_AFTER:
        return _say(
            FailureMode.FALSE_ALARM,
            f"{seen.node} answered {pause.total_seconds():.1f} s ago: a pause, not yet a hang",
        )
    if {seen.service, seen.ssh} <= {ProbeResult.REFUSED, ProbeResult.TIMEOUT}:
        return _unreachable_host(seen)
    return _full_disk(seen) or _damaged(seen) or _between(seen) or _service_only(seen)


def _serving(seen: Observation) -> Diagnosis:
    """Rule 1: the service answers."""
    if (off := is_skewed(seen.clock_ahead_s)) is not None:
        return _say(FailureMode.CLOCK_WRONG, f"{seen.node} answers, but {off}")
    return _say(FailureMode.FALSE_ALARM, f"{seen.node} answers its own protocol{_oddities(seen)}")


def _unreachable_host(seen: Observation) -> Diagnosis:
    """Rule 5: neither the service nor sshd answers us, and the platform doesn't say that the node is dead."""
    opinions = set(seen.peers.values())
    how = "refuses us" if ProbeResult.REFUSED in (seen.service, seen.ssh) else "is silent to us"
    if PeerOpinion.UP in opinions:
        return _say(
            FailureMode.PARTITIONED,
            f"{seen.node} {how}, but it is still heard by {_names(seen, PeerOpinion.UP)}: the network is at fault",
        )
    if opinions == {PeerOpinion.UNKNOWN} and seen.running is None:
        return _say(
            FailureMode.PARTITIONED,
            f"{seen.node} {how} and none of its peers could be asked: it may be us who are cut off",
        )
    witness = _names(seen, PeerOpinion.DOWN)
    said = f"and {witness} says that it is down" if witness else "and no peer hears it"
    frozen = "; its platform says that it runs" if seen.running else ""
    return _say(
        FailureMode.HOST_LOST, f"{seen.node} {how} on its service and on sshd, {said}{frozen}{_volume(seen)}"
    )


def _between(seen: Observation) -> Diagnosis | None:
    """Rule 8: the node itself finds its service well, or listening where we are refused."""
    if seen.view.answer is ProbeResult.OK:
        said = f"{seen.node} answers its own protocol on the node itself, but not us"
    elif seen.service is ProbeResult.REFUSED and seen.view.listening:
        said = f"{seen.node} listens on its service's port, but connections to it are refused"
    else:
        return None
    return _say(FailureMode.PARTITIONED, f"{said}: something between, such as a firewall, is at fault")


def _full_disk(seen: Observation) -> Diagnosis | None:
    """Rule 6: the host is there, and its disk has no room left."""
    if seen.room is None or seen.room.free >= FULL_BELOW:
        return None
    return _say(FailureMode.DISK_FULL, f"{seen.node} doesn't serve, and its disk is full: {_free(seen.room)}")


def _damaged(seen: Observation) -> Diagnosis | None:
    """Rule 7: the service itself says that its data can't be read."""
    if seen.damage is None or seen.service is not ProbeResult.REFUSED:
        return None
    return _say(FailureMode.DATA_DAMAGED, f"{seen.node} can't read its data: {seen.damage}")


def _service_only(seen: Observation) -> Diagnosis:
    """Rules 9 to 12: the host is there, the service isn't well."""
    if seen.progress:
        return _say(FailureMode.STARTING, f"{seen.node} is starting: {seen.progress}")
    if seen.init_state == "STARTING":
        return _say(FailureMode.STARTING, f"{seen.node} is being started by its init")
    if seen.init_state in ("FATAL", "BACKOFF"):
        return _say(
            FailureMode.MISCONFIGURED,
            f"{seen.node}: the service exits whenever its init starts it (init says {seen.init_state})",
        )
    if seen.service is ProbeResult.WRONG:
        return _say(
            FailureMode.MISCONFIGURED,
            f"{seen.node} answers, but not as its protocol demands{_ssh_state(seen)}",
        )
    if seen.service is ProbeResult.TIMEOUT:
        hung = f"{seen.node}: the service accepts no request{_init(seen)}{_ssh_state(seen)}"
        return _heard_by_peers(seen) or _say(FailureMode.HUNG, hung)
    return _say(
        FailureMode.PROCESS_DOWN,
        f"{seen.node}: nothing listens on the service's port{_init(seen)}{_ssh_state(seen)}",
    )


def _heard_by_peers(seen: Observation) -> Diagnosis | None:
    """Rule 11, for a silent service that its peers hear; None where it counts as hung."""
    heard = _silence(seen)
    if PeerOpinion.UP not in seen.peers.values() or (heard is not None and heard > LIVE_WITHIN):
        return None
    if seen.view.listening and seen.view.connected is False:
        return _say(
            FailureMode.PARTITIONED,
            f"{seen.node} is heard by its peers, but no connection to its service comes about: packets are lost",
        )
    since = seen.unanswered_since
    if since is None or seen.at - since < STUCK_AFTER:
        return _say(
            FailureMode.FALSE_ALARM,
            f"{seen.node} serves no client, but its peers hear it: it may be slow, so it is looked at again",
        )
    return None


def _say(verdict: FailureMode, reason: str) -> Diagnosis:
    return Diagnosis(verdict, reason + ".")


def _serves_nobody(seen: Observation) -> bool:
    """Whether the host answers us and its service has been silent to us for as long as a hang takes."""
    since = seen.unanswered_since
    return seen.ssh is ProbeResult.OK and since is not None and seen.at - since >= HANG_AFTER


def _silence(seen: Observation) -> timedelta | None:
    return None if seen.last_seen_at is None else seen.at - seen.last_seen_at


def _names(seen: Observation, opinion: PeerOpinion) -> str:
    return " and ".join(sorted(peer for peer, said in seen.peers.items() if said is opinion))


def _oddities(seen: Observation) -> str:
    odd = []
    if seen.ssh is not ProbeResult.OK:
        odd.append(f"its sshd doesn't (ssh: {seen.ssh.value}), so it couldn't be repaired over ssh")
    if seen.volume_intact is False:
        odd.append("its data directory is gone from under it")
    if seen.room is not None and seen.room.free < FULL_BELOW:
        odd.append(f"its disk is full ({_free(seen.room)})")
    if down := _names(seen, PeerOpinion.DOWN):
        odd.append(f"{down} held it for down")
    return f", but {' and '.join(odd)}" if odd else ""


def _stale_peers(seen: Observation) -> str:
    up = _names(seen, PeerOpinion.UP)
    return f" (not yet noticed by {up})" if up else ""


def _volume(seen: Observation) -> str:
    if seen.volume_intact is None:
        return "; nobody could say whether its volume is intact"
    return "; its volume is intact" if seen.volume_intact else "; its volume is gone"


def _free(room: Headroom) -> str:
    return f"{room.free:,} of {room.size:,} bytes are free"


def _init(seen: Observation) -> str:
    return f" (init says {seen.init_state})" if seen.init_state else ""


def _ssh_state(seen: Observation) -> str:
    return "" if seen.ssh is ProbeResult.OK else f", and its sshd is no help (ssh: {seen.ssh.value})"

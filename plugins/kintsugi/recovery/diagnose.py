"""From what was seen of a node to what is wrong with it: pure, and a sentence for a human at 2 a.m.

The rules, in order; the first that fits decides:

1.  The service answers its own protocol → **false alarm**, whatever else is odd; oddities are named. But where its
    clock isn't that of everybody else → **clock wrong**.
2.  The volume is known to be gone and the host answers → **disk lost**.
3.  The service is silent, but answered anybody less than 8 s ago → **false alarm**: a pause (a
    collection, a slow disk) of up to 5 s is never an incident. What its peers hear doesn't count where the host
    answers us and the service hasn't for 8 s: gossip and replication may live on in a service that serves nobody.
4.  Service and sshd both *refuse* → **host lost**. A refused connection is an answer of the kernel: no
    process listens. On two independent ports it proves the processes dead, so peers that still say
    "up" are behind (Cassandra's gossip takes 10 to 18 s to notice) and do not count.
5.  Service and sshd are both *silent* → silence proves nothing, so the witnesses decide:
    any peer that says "up" → **partitioned**; peers asked, but none of them knows → **partitioned** (it
    may be us who are cut off); at least one says "down" and none "up" → **host lost**;
    a role that has no peers → **host lost**.
6.  The host answers, the service doesn't, and its disk has no room left → **disk full**, also while the init starts
    the service again: it won't come up before something is deleted, and what may be deleted nobody knows.
7.  It refuses and has just said that it can't read its data → **data damaged**, also while the init starts it again:
    it reads the same once more.
8.  The init reports progress, or is just starting the service → **starting**.
9.  The init has given up on the service (FATAL) or sees it exit again and again (BACKOFF), or the
    service answers in a wrong way → **misconfigured**.
10. The service is silent while the host is there → **hung**.
11. The service refuses while the host is there → **process down**.

"The host is there" means that sshd or the service's port answered in any way, be it a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from kintsugi.observation import Answer, Headroom, Observation, PeerOpinion
from kintsugi.probes.clock import wrong

HANG_AFTER = timedelta(seconds=8)
"""Silence shorter than this is a pause. Pauses of up to 5 s are allowed; hangs are declared from 8 s on."""

FULL_BELOW = 64 * 2**20
"""Bytes. With less no service starts: Cassandra begins with commit log segments, Kafka with an index of each log."""


class Verdict(StrEnum):
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

    verdict: Verdict
    reason: str


def diagnose(observation: Observation) -> Diagnosis:
    """What is wrong with the node, by the rules above. Never raises; always says something."""
    seen = observation
    if seen.service is Answer.OK:
        return _serving(seen)
    if seen.volume_intact is False and seen.ssh is Answer.OK:
        return _say(Verdict.DISK_LOST, f"{seen.node} answers ssh, but its data directory is gone")
    pause = None if _serves_nobody(seen) else _silence(seen)
    if seen.service is Answer.TIMEOUT and pause is not None and pause < HANG_AFTER:
        return _say(
            Verdict.FALSE_ALARM,
            f"{seen.node} answered {pause.total_seconds():.1f} s ago: a pause, not yet a hang",
        )
    if seen.service is seen.ssh is Answer.REFUSED:
        return _say(
            Verdict.HOST_LOST,
            f"{seen.node} refuses connections to its service and to sshd: nothing runs there"
            f"{_stale_peers(seen)}{_volume(seen)}",
        )
    if seen.service is seen.ssh is Answer.TIMEOUT:
        return _silent_host(seen)
    return _full_disk(seen) or _damaged(seen) or _service_only(seen)


def _serving(seen: Observation) -> Diagnosis:
    """Rule 1: the service answers."""
    if (off := wrong(seen.clock_ahead_s)) is not None:
        return _say(Verdict.CLOCK_WRONG, f"{seen.node} answers, but {off}")
    return _say(Verdict.FALSE_ALARM, f"{seen.node} answers its own protocol{_oddities(seen)}")


def _silent_host(seen: Observation) -> Diagnosis:
    """Rule 5: neither the service nor sshd says anything."""
    opinions = set(seen.peers.values())
    if PeerOpinion.UP in opinions:
        return _say(
            Verdict.PARTITIONED,
            f"{seen.node} is silent to us, but still heard by {_names(seen, PeerOpinion.UP)}",
        )
    if opinions == {PeerOpinion.UNKNOWN}:
        return _say(
            Verdict.PARTITIONED,
            f"{seen.node} is silent and none of its peers could be asked: it may be us who are cut off",
        )
    witness = _names(seen, PeerOpinion.DOWN)
    said = f"and held for down by {witness}" if witness else "and it has no peers that could say otherwise"
    return _say(Verdict.HOST_LOST, f"{seen.node} is silent on its service and on sshd, {said}{_volume(seen)}")


def _full_disk(seen: Observation) -> Diagnosis | None:
    """Rule 6: the host is there, and its disk has no room left."""
    if seen.room is None or seen.room.free >= FULL_BELOW:
        return None
    return _say(Verdict.DISK_FULL, f"{seen.node} doesn't serve, and its disk is full: {_free(seen.room)}")


def _damaged(seen: Observation) -> Diagnosis | None:
    """Rule 7: the service itself says that its data can't be read."""
    if seen.damage is None or seen.service is not Answer.REFUSED:
        return None
    return _say(Verdict.DATA_DAMAGED, f"{seen.node} can't read its data: {seen.damage}")


def _service_only(seen: Observation) -> Diagnosis:
    """Rules 8 to 11: the host is there, the service isn't well."""
    if seen.progress:
        return _say(Verdict.STARTING, f"{seen.node} is starting: {seen.progress}")
    if seen.init_state == "STARTING":
        return _say(Verdict.STARTING, f"{seen.node} is being started by its init")
    if seen.init_state in ("FATAL", "BACKOFF"):
        return _say(
            Verdict.MISCONFIGURED,
            f"{seen.node}: the service exits whenever its init starts it (init says {seen.init_state})",
        )
    if seen.service is Answer.WRONG:
        return _say(
            Verdict.MISCONFIGURED, f"{seen.node} answers, but not as its protocol demands{_ssh_state(seen)}"
        )
    if seen.service is Answer.TIMEOUT:
        return _say(
            Verdict.HUNG, f"{seen.node}: the service accepts no request{_init(seen)}{_ssh_state(seen)}"
        )
    return _say(
        Verdict.PROCESS_DOWN,
        f"{seen.node}: nothing listens on the service's port{_init(seen)}{_ssh_state(seen)}",
    )


def _say(verdict: Verdict, reason: str) -> Diagnosis:
    return Diagnosis(verdict, reason + ".")


def _serves_nobody(seen: Observation) -> bool:
    """Whether the host answers us and its service has been silent to us for as long as a hang takes."""
    since = seen.unanswered_since
    return seen.ssh is Answer.OK and since is not None and seen.at - since >= HANG_AFTER


def _silence(seen: Observation) -> timedelta | None:
    return None if seen.heard_at is None else seen.at - seen.heard_at


def _names(seen: Observation, opinion: PeerOpinion) -> str:
    return " and ".join(sorted(peer for peer, said in seen.peers.items() if said is opinion))


def _oddities(seen: Observation) -> str:
    odd = []
    if seen.ssh is not Answer.OK:
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
    return "" if seen.ssh is Answer.OK else f", and its sshd is no help (ssh: {seen.ssh.value})"

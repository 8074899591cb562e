"""Diagnose a node: from an observation to a failure mode. Pure; each diagnosis has its reason as a sentence.

The rules, in order; the first that fits decides:

1.  The service answers its own protocol → **false alarm**. Anything else that is unusual is only named. If its clock
    differs too much from the other clocks → **clock wrong**.
2.  Neither the service nor sshd answers, and the platform says that the node does not run → **host lost**. The
    platform's answer is proof. Peers that still say "up" are late: Cassandra's gossip needs 10 to 18 s.
3.  The volume is known to be gone and the host answers → **disk lost**.
4.  The service is silent, but anybody got an answer less than 8 s ago → **false alarm**. A pause of up to 5 s (garbage
    collection, a slow disk) is never an incident. What peers hear does not count if the host answers us and the
    service has not answered us for 8 s. Gossip and replication can go on in a service that serves no client.
5.  The service and sshd are each refused or silent. A refusal is no proof: a firewall can refuse connections to a live
    server. So the peers decide. One peer says "up" → **partitioned**. No peer could be asked and the platform does
    not know either → **partitioned**, because the control plane may be cut off. Else → **host lost**.
6.  The host answers, the service doesn't, and its disk has no room left → **disk full**. This also holds while the init
    restarts the service: it can't start before something is deleted, and nobody knows what may be deleted. It doesn't
    hold for a small file system that is mostly free: the volume isn't mounted, and its data must not be destroyed.
7.  The service refuses connections and has just logged that it can't read its data → **data damaged**. This also holds
    while the init restarts it: it will read the same data again.
8.  The service answers a probe from the node itself, or its socket listens although we are refused →
    **partitioned**: something between us and the node is at fault.
9.  The service listens, but on another port or address than its own → **misconfigured**. Else, if the init reports
    progress, or is just starting the service → **starting**.
10. The init has given up on the service (FATAL), or the service exits again and again (BACKOFF), or the
    service gives an invalid answer → **misconfigured**.
11. The service is silent and the host is up. Its peers hear it, but no connection to it can be opened →
    **partitioned**. Its peers hear it, and it has been silent for less than 30 s → **false alarm**. Else → **hung**.
12. The service refuses connections and the host is up → **process down**.

"The host is up" means that sshd answered, or that the service's port answered in any way and sshd is silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from kintsugi.core.observation import Headroom, Observation, PeerOpinion, ProbeResult
from kintsugi.probes.clock_skew import describe_skew

HANG_AFTER = timedelta(seconds=8)
"""A shorter silence is a pause. Pauses of up to 5 s are allowed; from 8 s on the service counts as hung."""

LIVE_WITHIN = timedelta(seconds=5)
"""A node that anybody heard within this time is alive, unless its platform says that it does not run."""

STUCK_AFTER = timedelta(seconds=30)
"""A service that its peers hear counts as stuck if it has served no client for this long."""

FULL_BELOW = 64 * 2**20
"""Bytes. No service starts with less: Cassandra first writes commit log segments, Kafka an index of each log."""


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
    """A failure mode and its reason: one sentence that names what was seen."""

    verdict: FailureMode
    reason: str


def diagnose_node(observation: Observation) -> Diagnosis:
    """Return what is wrong with the node, by the rules above. Never raises."""
    seen = observation
    if seen.service is ProbeResult.OK:
        return _diagnose_serving(seen)
    if seen.running is False and seen.ssh is not ProbeResult.OK:
        return _diagnosis(
            FailureMode.HOST_LOST,
            f"{seen.node} does not run: the platform says so, and neither its service nor its sshd answers"
            f"{_describe_stale_peers(seen)}{_describe_volume(seen)}",
        )
    if seen.volume_intact is False and seen.ssh is ProbeResult.OK:
        return _diagnosis(
            FailureMode.DISK_LOST, f"{seen.node} answers over ssh, but its data directory is gone"
        )
    pause = None if _serves_nobody(seen) else _silent_for(seen)
    if seen.service is ProbeResult.TIMEOUT and pause is not None and pause < HANG_AFTER:
        return _diagnosis(
            FailureMode.FALSE_ALARM,
            f"{seen.node} answered {pause.total_seconds():.1f} s ago. This counts as a pause; "
            f"a hang is {HANG_AFTER.total_seconds():.0f} s of silence",
        )
    if {seen.service, seen.ssh} <= {ProbeResult.REFUSED, ProbeResult.TIMEOUT}:
        return _diagnose_unreachable_host(seen)
    return (
        _diagnose_full_disk(seen)
        or _diagnose_damaged_data(seen)
        or _diagnose_network(seen)
        or _diagnose_wrong_port(seen)
        or _diagnose_service(seen)
    )


def _diagnose_serving(seen: Observation) -> Diagnosis:
    """Rule 1: the service answers."""
    if (off := describe_skew(seen.clock_ahead_s)) is not None:
        return _diagnosis(FailureMode.CLOCK_WRONG, f"{seen.node} answers, but {off}")
    return _diagnosis(
        FailureMode.FALSE_ALARM, f"{seen.node} answers its own protocol{_describe_oddities(seen)}"
    )


def _diagnose_unreachable_host(seen: Observation) -> Diagnosis:
    """Rule 5: neither the service nor sshd answers us, and the platform doesn't say that the node is dead."""
    opinions = set(seen.peers.values())
    how = "refuses connections" if ProbeResult.REFUSED in (seen.service, seen.ssh) else "does not answer"
    if PeerOpinion.UP in opinions:
        return _diagnosis(
            FailureMode.PARTITIONED,
            f"{seen.node} {how}, but {_peers_with_view(seen, PeerOpinion.UP)} can still reach it: "
            "the network between the control plane and the node is at fault",
        )
    if opinions == {PeerOpinion.UNKNOWN} and seen.running is None:
        return _diagnosis(
            FailureMode.PARTITIONED,
            f"{seen.node} {how}, and none of its peers could be asked: "
            "the control plane itself may be cut off from the network",
        )
    peers_down = _peers_with_view(seen, PeerOpinion.DOWN)
    peers_say = f"and it is down according to {peers_down}" if peers_down else "and no peer can reach it"
    frozen = "; the platform says that it still runs" if seen.running else ""
    return _diagnosis(
        FailureMode.HOST_LOST,
        f"{seen.node} {how} on its service and on sshd, {peers_say}{frozen}{_describe_volume(seen)}",
    )


def _diagnose_network(seen: Observation) -> Diagnosis | None:
    """Rule 8: the service answers on the node itself, or listens there although our connections are refused."""
    if seen.view.answer is ProbeResult.OK:
        finding = f"{seen.node} answers its own protocol on the node itself, but not from here"
    elif seen.service is ProbeResult.REFUSED and seen.view.listening:
        finding = f"{seen.node} listens on its service's port, but connections from here are refused"
    else:
        return None
    return _diagnosis(FailureMode.PARTITIONED, f"{finding}: the network or a firewall between is at fault")


def _diagnose_full_disk(seen: Observation) -> Diagnosis | None:
    """Rule 6: the host is up, and its disk has no room left."""
    if seen.room is None or not _is_full(seen.room):
        return None
    return _diagnosis(
        FailureMode.DISK_FULL, f"{seen.node} doesn't serve, and its disk is full: {_describe_room(seen.room)}"
    )


def _is_full(room: Headroom) -> bool:
    """Whether something has filled the volume. If little is there and most of it is free, the volume isn't mounted."""
    return room.free < FULL_BELOW and 2 * room.free < room.size


def _diagnose_damaged_data(seen: Observation) -> Diagnosis | None:
    """Rule 7: the service's own log says that its data can't be read."""
    if seen.damage is None or seen.service is not ProbeResult.REFUSED:
        return None
    return _diagnosis(FailureMode.DATA_DAMAGED, f"{seen.node} can't read its data: {seen.damage}")


def _diagnose_wrong_port(seen: Observation) -> Diagnosis | None:
    """Rule 9, first part: the service is up, on an endpoint where no client looks for it."""
    if not seen.view.misplaced:
        return None
    return _diagnosis(
        FailureMode.MISCONFIGURED,
        f"{seen.node}: the service listens on {', '.join(seen.view.elsewhere)} instead of its own port",
    )


def _diagnose_service(seen: Observation) -> Diagnosis:
    """Rules 9 to 12: the host is up, the service does not serve."""
    if seen.progress:
        return _diagnosis(FailureMode.STARTING, f"{seen.node} is starting: {seen.progress}")
    if seen.init_state == "STARTING":
        return _diagnosis(
            FailureMode.STARTING, f"{seen.node} is starting: its init has just started the service"
        )
    if seen.init_state in ("FATAL", "BACKOFF"):
        return _diagnosis(
            FailureMode.MISCONFIGURED,
            f"{seen.node}: the service exits each time its init starts it (init state {seen.init_state})",
        )
    if seen.service is ProbeResult.WRONG:
        return _diagnosis(
            FailureMode.MISCONFIGURED,
            f"{seen.node} gives an answer that is invalid in its protocol{_describe_ssh(seen)}",
        )
    if seen.service is ProbeResult.TIMEOUT:
        hung = f"{seen.node}: the service answers no request{_describe_init(seen)}{_describe_ssh(seen)}"
        return _diagnose_heard_by_peers(seen) or _diagnosis(FailureMode.HUNG, hung)
    return _diagnosis(
        FailureMode.PROCESS_DOWN,
        f"{seen.node}: nothing listens on the service's port{_describe_init(seen)}{_describe_ssh(seen)}",
    )


def _diagnose_heard_by_peers(seen: Observation) -> Diagnosis | None:
    """Rule 11, for a silent service that its peers hear; None if it counts as hung."""
    heard = _silent_for(seen)
    if PeerOpinion.UP not in seen.peers.values() or (heard is not None and heard > LIVE_WITHIN):
        return None
    if seen.view.listening and seen.view.connected is False:
        return _diagnosis(
            FailureMode.PARTITIONED,
            f"{seen.node} is heard by its peers, but no connection to its service can be opened: packets are lost",
        )
    since = seen.unanswered_since
    if since is None or seen.at - since < STUCK_AFTER:
        return _diagnosis(
            FailureMode.FALSE_ALARM,
            f"{seen.node} does not answer clients, but its peers hear it. It may only be slow; it is observed again",
        )
    return None


def _diagnosis(verdict: FailureMode, reason: str) -> Diagnosis:
    return Diagnosis(verdict, reason + ".")


def _serves_nobody(seen: Observation) -> bool:
    """Whether the host answers us and its service has been silent to us for at least HANG_AFTER."""
    since = seen.unanswered_since
    return seen.ssh is ProbeResult.OK and since is not None and seen.at - since >= HANG_AFTER


def _silent_for(seen: Observation) -> timedelta | None:
    return None if seen.last_seen_at is None else seen.at - seen.last_seen_at


def _peers_with_view(seen: Observation, opinion: PeerOpinion) -> str:
    return " and ".join(sorted(peer for peer, said in seen.peers.items() if said is opinion))


def _describe_oddities(seen: Observation) -> str:
    odd = []
    if seen.ssh is not ProbeResult.OK:
        odd.append(f"its sshd doesn't (ssh: {seen.ssh.value}), so Ansible could not reach it")
    if seen.volume_intact is False:
        odd.append("its data directory is gone")
    if seen.room is not None and _is_full(seen.room):
        odd.append(f"its disk is full ({_describe_room(seen.room)})")
    if down := _peers_with_view(seen, PeerOpinion.DOWN):
        odd.append(f"it is down according to {down}")
    return f", but {' and '.join(odd)}" if odd else ""


def _describe_stale_peers(seen: Observation) -> str:
    up = _peers_with_view(seen, PeerOpinion.UP)
    return f" (not yet noticed by {up})" if up else ""


def _describe_volume(seen: Observation) -> str:
    if seen.volume_intact is None:
        return "; it is unknown whether its volume is intact"
    return "; its volume is intact" if seen.volume_intact else "; its volume is gone"


def _describe_room(room: Headroom) -> str:
    return f"{room.free:,} of {room.size:,} bytes are free"


def _describe_init(seen: Observation) -> str:
    return f" (init state {seen.init_state})" if seen.init_state else ""


def _describe_ssh(seen: Observation) -> str:
    return "" if seen.ssh is ProbeResult.OK else f", and its sshd does not answer (ssh: {seen.ssh.value})"

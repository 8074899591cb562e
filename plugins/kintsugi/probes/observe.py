"""Everything that can be observed of a node at one moment, within about 5 s: the second opinion."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import Headroom, NodeView, Observation, PeerOpinion, ProbeResult
from kintsugi.core.settings import Settings
from kintsugi.infra import ssh as ssh_client
from kintsugi.probes import clock_skew
from kintsugi.probes.disk import parse_df
from kintsugi.probes.master_view import ask_master
from kintsugi.probes.node_view import parse_view, service_command
from kintsugi.probes.peers import GOSSIP_WATCH_S, PeerView, ask_peers
from kintsugi.probes.protocols import Probe, probe_node, probe_ssh
from kintsugi.probes.service_log import time_of

LOOK_TIMEOUT_S = 1.5
SECOND_LOOK_S = 1.0
SSH_TIMEOUT_S = 8.0  # a busy machine may take three; what isn't known by then is left out

SERVICES = {
    Role.KAFKA: "kafka",
    Role.CASSANDRA: "cassandra",
    Role.SPARK_MASTER: "spark-master",
    Role.SPARK_WORKER: "spark-worker",
}
# For so many seconds after the start of its process, a service that doesn't listen yet counts as starting.
START_S = {Role.KAFKA: 45, Role.CASSANDRA: 90, Role.SPARK_MASTER: 30, Role.SPARK_WORKER: 30}
# A start takes at least so many seconds of processor time. On a busy machine that tells more than the clock.
START_CPU_S = {Role.KAFKA: 5, Role.CASSANDRA: 10, Role.SPARK_MASTER: 3, Role.SPARK_WORKER: 3}
# After that, only these words in the newest lines of its log prove that it still makes progress.
PROGRESS = {
    Role.KAFKA: ("Recovering unflushed segment", "Loading producer state", "recovered", "Loaded snapshot"),
    Role.CASSANDRA: ("Replaying ", "JOINING", "ootstrap", "Received ", "Initializing ", "stream"),
}
# A service that logs these words can't read its data and gives up. Its next start reads the same data.
DAMAGE = {Role.CASSANDRA: ("Exiting due to error while processing commit log during initialization",)}
# Seconds. An older line is of the last start, and says nothing of a node that hangs half an hour later.
FRESH_S = 60.0
# A service that ended by itself so often within so many seconds won't come up by waiting.
LOOP_EXITS = 3
LOOP_S = 90.0
# A file or directory that exists only in a formatted data directory.
MARKS = {Role.KAFKA: "meta.properties", Role.CASSANDRA: "system"}


async def gather_observation(settings: Settings, node: Node, running: bool | None = None) -> Observation:
    """Probe ``node`` twice, and ask its init, its disk and its peers; never raises on errors of the network.

    ``running``: the platform's answer, None if unknown. If nothing runs, no answer is waited for.
    ``volume_intact``, ``room`` and ``view`` stay unknown unless the node itself could be asked over SSH.
    """
    first = asyncio.create_task(_probe_both(node))
    peers = asyncio.create_task(peer_views(settings, node, first, running))
    service, ssh = await first
    (service, ssh), views, init, (volume, room), ahead_s, view = await asyncio.gather(
        _probe_again(node, service, ssh, running),
        peers,
        _read_init(settings, node, ssh),
        _read_volume(settings, node, ssh),
        _read_clock_offset(settings, node, service),
        node_view(settings, node, service, ssh),
    )
    init_state, progress, damage = init
    progress = progress or _slow_start(node.role, init_state, view)
    return Observation(
        node=node.name,
        role=node.role,
        at=datetime.now(UTC),
        service=service.answer,
        ssh=ssh.answer,
        init_state=init_state,
        volume_intact=volume,
        room=room,
        peers={one.peer: one.opinion for one in views},
        progress=progress,
        damage=damage,
        last_seen_at=last_seen_at(service, views),
        clock_ahead_s=ahead_s,
        running=running,
        view=view,
    )


async def node_view(settings: Settings, node: Node, service: Probe, ssh: Probe) -> NodeView:
    """Return what the node reports of a service that does not answer us; unknown if it answers or SSH does not."""
    if service.answer is ProbeResult.OK or ssh.answer is not ProbeResult.OK:
        return NodeView()
    return parse_view(
        await _run_on_node(settings, node, service_command(settings, node, SERVICES[node.role]))
    )


def _slow_start(role: Role, init_state: str | None, view: NodeView) -> str | None:
    """Return a sentence if the service has not had the processor time that its start takes, else None."""
    if init_state != "RUNNING" or view.cpu_s is None or view.listening or view.cpu_s >= START_CPU_S[role]:
        return None
    return f"its process has had {view.cpu_s:.1f} s of the {START_CPU_S[role]} s of processor time that a start takes"


def last_seen_at(service: Probe, views: Sequence[PeerView]) -> datetime | None:
    """Return when we or a peer last got an answer from the service, UTC; None if nobody knows."""
    times = [view.last_seen_at for view in views]
    times.append(service.at if service.answer is ProbeResult.OK else None)
    return max((time for time in times if time is not None), default=None)


async def _probe_both(node: Node) -> tuple[Probe, Probe]:
    return await asyncio.gather(probe_node(node, LOOK_TIMEOUT_S), _probe_ssh(node))


async def peer_views(
    settings: Settings,
    node: Node,
    first: asyncio.Task[tuple[Probe, Probe]],
    running: bool | None = None,
) -> list[PeerView]:
    """Return the peer views. The peers are asked from the beginning on, while the probes of the node run.

    If the platform reports that nothing runs, the peers are asked for the record only, with a short wait. If no peer of
    a silent node knows anything, they are asked once more: the silent broker may have led the quorum. Without a second
    question the incident would be closed, and the watch would wait for another eight seconds of silence.
    """
    asking = asyncio.create_task(ask_peers(settings.fleet, node, GOSSIP_WATCH_S))
    service, ssh = await first
    if running is False and service.answer is not ProbeResult.OK:
        asking.cancel()
        return await ask_peers(settings.fleet, node, SECOND_LOOK_S)
    views = await asking
    if service.answer is ProbeResult.OK:
        return views
    if {view.opinion for view in views} == {PeerOpinion.UNKNOWN}:
        views = await ask_peers(settings.fleet, node, GOSSIP_WATCH_S)
    return [*views, *await ask_master(settings, node, ssh)]


async def _probe_ssh(node: Node) -> Probe:
    return await probe_ssh(node.address, node.ssh_port, LOOK_TIMEOUT_S)


async def _probe_again(node: Node, service: Probe, ssh: Probe, running: bool | None) -> tuple[Probe, Probe]:
    """Ask again a second later what didn't answer; the later answer counts. A node that doesn't run is not asked."""
    if service.answer is ProbeResult.OK and ssh.answer is ProbeResult.OK:
        return service, ssh
    if running is False:
        return service, ssh
    await asyncio.sleep(SECOND_LOOK_S if service.answer is not ProbeResult.OK else 0)
    again_service, again_ssh = await _probe_both(node)
    return (
        service if service.answer is ProbeResult.OK else again_service,
        ssh if ssh.answer is ProbeResult.OK else again_ssh,
    )


async def _read_init(settings: Settings, node: Node, ssh: Probe) -> tuple[str | None, str | None, str | None]:
    """Return the init's state of the service, a sentence if it makes progress, and one if its data is damaged."""
    if ssh.answer is not ProbeResult.OK:
        return None, None, None
    root, service = settings.node_root(node.name), SERVICES[node.role]
    words = [part for word in DAMAGE.get(node.role, ()) for part in ("-e", word)]
    # One session for both, because each costs a key exchange. The whole log is searched: a new start logs many lines.
    search = 'log="$1"; shift; [ $# = 0 ] || grep -F "$@" "$log"; tail -n 20 "$log"'
    status, log, init_log = await asyncio.gather(
        _run_on_node(
            settings, node, ["supervisorctl", "-c", f"{root}/etc/supervisord.conf", "status", service]
        ),
        _run_on_node(settings, node, ["sh", "-c", search, "sh", f"{root}/log/{service}.log", *words]),
        _run_on_node(settings, node, ["tail", "-n", "100", f"{root}/log/init.log"]),
    )
    state, uptime_s = parse_init_state(status or "")
    now = datetime.now(UTC)
    damaged = damage_of(node.role, log or "", now)
    if crash_loop(init_log or "", service, uptime_s):
        return "BACKOFF", None, damaged
    return state, progress_of(node.role, state, uptime_s, log or "", now), damaged


def crash_loop(init_log: str, service: str, uptime_s: float | None) -> bool:
    """Whether the service is in a crash loop: LOOP_EXITS unexpected ends within LOOP_S, by the log of the init.

    A service that exits some seconds after each start looks like a starting one at any single moment. ``uptime_s``: age
    of the process that runs now; after more than LOOP_S the loop has ended.
    """
    if uptime_s is not None and uptime_s > LOOP_S:
        return False
    ends = [
        datetime.fromisoformat(match[1])
        for match in re.finditer(
            rf"^(\S+ \S+),\d+ \w+ exited: {re.escape(service)} \(.*not expected\)$", init_log, re.MULTILINE
        )
    ]
    return len(ends) >= LOOP_EXITS and (ends[-1] - ends[-LOOP_EXITS]).total_seconds() <= LOOP_S


def parse_init_state(status: str) -> tuple[str | None, float | None]:
    """Parse a line of ``supervisorctl status``; returns the state and the age of the process in seconds."""
    match = re.search(
        r"^\S+\s+([A-Z]+)\b(?:.*uptime (?:(\d+) days?, )?(\d+):(\d+):(\d+))?", status, re.MULTILINE
    )
    if match is None:
        return None, None
    if match[3] is None:
        return match[1], None
    days, hours, minutes, seconds = (int(number or 0) for number in match.groups()[1:])
    return match[1], ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def progress_of(role: Role, state: str | None, uptime_s: float | None, log: str, now: datetime) -> str | None:
    """Return a sentence if the service runs, doesn't serve yet and makes progress, else None.

    ``log``: its newest lines, each beginning with its time in ISO 8601.
    """
    if state not in ("STARTING", "RUNNING"):
        return None
    if uptime_s is not None and uptime_s < START_S[role]:
        return f"its process began {uptime_s:.0f} s ago"
    return _newest_line(log.splitlines(), PROGRESS.get(role, ()), now)


def damage_of(role: Role, log: str, now: datetime) -> str | None:
    """Return a sentence if the service logged just now that it can't read its data, else None.

    ``log``: lines of its log, each beginning with its time in ISO 8601.
    """
    return _newest_line(log.splitlines(), DAMAGE.get(role, ()), now)


def _newest_line(lines: Sequence[str], words: Sequence[str], now: datetime) -> str | None:
    """Return the newest of the fresh lines with one of the words, as a sentence; None if there is none."""
    matches = [line for line in lines if any(word in line for word in words) and _is_fresh(line, now)]
    return f"its log says: {matches[-1].strip()[:160]}" if matches else None


def _is_fresh(line: str, now: datetime) -> bool:
    """Whether the line was written less than FRESH_S ago; False for a line without a time."""
    written = time_of(line)
    return written is not None and abs((now - written).total_seconds()) < FRESH_S  # a clock may be fast


async def _read_volume(settings: Settings, node: Node, ssh: Probe) -> tuple[bool | None, Headroom | None]:
    """Return whether a formatted data directory exists, and the volume's space; None if the node can't be asked."""
    if ssh.answer is not ProbeResult.OK:
        return None, None
    volume, mark = settings.node_volume(node.name), MARKS.get(node.role)
    where = ["-maxdepth", "3", "-name", mark, "-print", "-quit"] if mark else ["-maxdepth", "0"]
    output = await _run_on_node(
        settings, node, ["sh", "-c", _VOLUME, "sh", str(volume), str(volume / "data"), *where]
    )
    if output is None:
        return None, None
    room, _, search = output.partition("\n\n") if not output.startswith("\n") else ("", "", output[1:])
    return parse_volume(search), parse_df(room)


# One session for both, because each costs a key exchange. A search that fails must not look like a disk without data.
_VOLUME = """
df -P -B1 "$1"; echo; shift
if [ ! -d "$1" ]; then echo absent
elif found=$(find "$@"); then echo "looked $found"
else echo failed
fi
"""


def parse_volume(search: str) -> bool | None:
    """Return whether the node has formatted data, from the output of the search; None if the search failed."""
    word, _, path = search.strip().partition(" ")
    return {"absent": False, "looked": bool(path)}.get(word)


async def _read_clock_offset(settings: Settings, node: Node, service: Probe) -> float | None:
    """Return by how much the service's clock is off; unknown unless it serves, because else something else failed."""
    return await clock_skew.seconds_ahead(settings, node) if service.answer is ProbeResult.OK else None


async def _run_on_node(settings: Settings, node: Node, argv: Sequence[str]) -> str | None:
    """Return the standard output of a command on the node, whatever its exit code; None if SSH itself failed."""
    try:
        done = await asyncio.to_thread(ssh_client.run_over_ssh, settings, node, argv, SSH_TIMEOUT_S)
    except StepFailed:
        return None
    return None if done.returncode == 255 else done.stdout

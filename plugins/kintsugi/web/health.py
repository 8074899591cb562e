"""The texts of the page, made from the readings. Pure; every sentence on the first screen is made here.

The headline answers four questions: is the pipeline healthy, since when, what is being repaired, what should I do.
The first rule that applies decides; the most severe rule comes first:

1. a repair waits for a person's decision;
2. a repair failed and the node is still down;
3. a node is down and is not recovered (watch paused, maintenance, a component of Airflow without heartbeat);
4. a repair is running, or the watch is about to start one;
5. the flow failed: the stream is gone, trades are not stored, or files are not ingested;
6. the next failure would not be detected (watches paused, Airflow without heartbeat), or a source can't be read;
7. the flow is late, files lost rows, or Cassandra's repair is overdue;
8. all is well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kintsugi.core.fleet import WATCH, Fleet, Node, Role, watch_of
from kintsugi.core.incident import PHASE_OF_STEP, Incident, Phase
from kintsugi.core.observation import Symptom
from kintsugi.db import replica_repairs
from kintsugi.db.dashboard import FleetSummary
from kintsugi.db.flags import FLEET, Maintenance
from kintsugi.web.flow import Stream
from kintsugi.web.intake import Intake
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import WORDS, Severity
from kintsugi.web.sources import AirflowSnapshot, Approval, NodeSnapshot, ReleasesSnapshot

# A step can take minutes (a Cassandra node streams its data), so a silent journal alone is not a failure.
SILENT_REPAIR = timedelta(minutes=10)
CONFIRM_WITHIN = timedelta(seconds=45)


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline. ``since``: since when it has been true, UTC, None when unknown.

    ``advice``: what the reader should do; ``deed``, ``target``: the action that does it, None when there is none.
    """

    level: Severity
    title: str
    advice: str
    since: datetime | None = None
    deed: str | None = None
    target: str = ""

    @property
    def word(self) -> str:
        return WORDS[self.level]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node on the page. ``last``: its newest incident; ``notes``: paused watch, maintenance, repair of its data."""

    node: Node
    level: Severity
    state: str
    since: datetime | None
    notes: tuple[str, ...]
    last: Incident | None
    incident: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """All readings, at ``now`` (UTC). ``stream`` is the flow as words and figures (kintsugi.web.flow)."""

    now: datetime
    fleet: Fleet
    nodes: CachedValue[Mapping[str, NodeSnapshot]]
    store: CachedValue[FleetSummary]
    airflow: CachedValue[AirflowSnapshot]
    releases: CachedValue[ReleasesSnapshot]
    stream: Stream
    intake: Intake | None = None

    def open_incident(self, name: str) -> Incident | None:
        """The open incident of a node."""
        return next((i for i in self._open() if i.node == name), None)

    def _open(self) -> Sequence[Incident]:
        return self.store.value.open if self.store.value else ()

    def seen(self, name: str) -> NodeSnapshot | None:
        """The last probe of the node."""
        return (self.nodes.value or {}).get(name)

    def flags(self, name: str) -> list[Maintenance]:
        """The maintenance windows of the node: its own and the fleet's."""
        flags = self.store.value.maintenance if self.store.value else ()
        return [flag for flag in flags if flag.scope in (name, FLEET)]

    def unwatched(self, name: str) -> bool:
        """Whether the node's watch is known to be paused."""
        return self.airflow.value is not None and watch_of(name) in self.airflow.value.paused


def headline(known: Known) -> Headline:
    """The first rule of this module that applies."""
    for rule in (
        _undecided,
        _failed,
        _abandoned,
        _repairing,
        _flow,
        _intake,
        _blind,
        _unnoticed,
        _late_flow,
        _late_intake,
        _uncompared,
    ):
        found = rule(known)
        if found is not None:
            return found
    last = known.store.value.last_trouble if known.store.value else None
    count = len(known.fleet.nodes)
    return Headline(
        Severity.WELL,
        f"All {count} servers answer and trades flow.",
        "Nothing to do.",
        since=last,
    )


def _undecided(known: Known) -> Headline | None:
    approvals = known.airflow.value.approvals if known.airflow.value else ()
    if not approvals:
        return None
    first = approvals[0]
    name = node_of(first)
    incident = known.open_incident(name) if name else None
    reason = refusal(incident) if incident else ""
    what = f"The repair of {name or first.run_id} was refused. Your decision is needed."
    return Headline(
        Severity.BAD,
        what,
        reason or "Read the reason. Then approve or decline the repair.",
        since=first.since,
        deed="approve",
        target=":".join((first.dag_id, first.run_id, first.task_id, str(first.map_index))),
    )


def _failed(known: Known) -> Headline | None:
    for incident in known.store.value.open if known.store.value else ():
        trouble = failure(incident, known.now)
        if trouble is not None:
            return Headline(
                Severity.BAD,
                f"The repair of {incident.node} makes no progress: {trouble}",
                "The watch tries the next escalation step. If it does not within a minute, recover the node by hand.",
                since=incident.started_at,
                deed="recover",
                target=incident.node,
            )
    return None


def _abandoned(known: Known) -> Headline | None:
    for node in _away(known):
        if known.open_incident(node.name):
            continue
        seen = known.seen(node.name)
        flags, since = known.flags(node.name), seen.since if seen else None
        others = [other.name for other in _away(known) if other != node]
        too = f" (nor {_names(others)})" if others else ""
        lost = f"{node.name} does not answer{too}, and "
        if flags:
            return Headline(
                Severity.BAD,
                f"{lost}recovery is paused.",
                str(flags[0]),
                since,
                deed="resume",
                target=flags[0].scope,
            )
        if known.unwatched(node.name):
            advice = f"Resume {watch_of(node.name)}, or recover the node by hand."
            return Headline(
                Severity.BAD, f"{lost}its watch is paused.", advice, since, deed="recover", target=node.name
            )
        if _nobody_acts(known):
            return Headline(
                Severity.BAD, f"{lost}Airflow does not react: {_late(known)}.", "Run `make up`.", since
            )
        if since is not None and known.now - since > CONFIRM_WITHIN:
            advice = "Look at its watch in Airflow, or recover the node by hand."
            return Headline(
                Severity.BAD, f"{lost}no repair has started.", advice, since, deed="recover", target=node.name
            )
    return None


def _repairing(known: Known) -> Headline | None:
    opened = known.store.value.open if known.store.value else ()
    if opened:
        names = " and ".join(incident.node for incident in opened)
        doing = " ".join(f"{incident.node}: {doing_now(incident)}." for incident in opened)
        started = min(incident.started_at for incident in opened)
        return Headline(
            Severity.BUSY,
            f"{names} failed and {_are(opened)} being repaired.",
            f"Nothing to do. {doing}",
            started,
        )
    away = _away(known)
    if away:
        seen = known.seen(away[0].name)
        names = _names([node.name for node in away])
        advice = "Nothing to do yet. The watch confirms the failure, then it repairs the node."
        return Headline(
            Severity.BUSY,
            f"{names} stopped answering.",
            advice,
            seen.since if seen else None,
        )
    return None


def _flow(known: Known) -> Headline | None:
    if known.stream.level is Severity.BAD:
        return Headline(Severity.BAD, known.stream.sentence, known.stream.advice, known.stream.since)
    return None


def _intake(known: Known, level: Severity = Severity.BAD) -> Headline | None:
    seen = known.intake
    if seen is None or seen.level is not level:
        return None
    return Headline(level, seen.sentence, seen.advice, seen.since, deed=seen.deed)


def _late_intake(known: Known) -> Headline | None:
    return _intake(known, Severity.NOTE)


def _blind(known: Known) -> Headline | None:
    silent: dict[str, CachedValue[Any]] = {
        "the store": known.store,
        "the servers' probes": known.nodes,
        "Airflow's tables": known.airflow,
    }
    for what, reading in silent.items():
        if reading.error is not None:
            said = f"{reading.error} The data below may be old."
            return Headline(Severity.UNKNOWN, f"{what} can't be read.", said, reading.at)
        if reading.at is None:
            return Headline(Severity.UNKNOWN, "Loading…", "The first readings arrive within seconds.")
    return None


def _unnoticed(known: Known) -> Headline | None:
    if _nobody_acts(known):
        title = f"A failure would not be detected: {_late(known)}."
        return Headline(Severity.BAD, title, "Run `make up` on the control plane.")
    flags = known.store.value.maintenance if known.store.value else ()
    if flags:
        return Headline(
            Severity.NOTE,
            f"recovery is paused for {_scopes(flags)}.",
            " ".join(str(flag) for flag in flags),
            flags[0].since,
            deed="resume",
            target=flags[0].scope,
        )
    unwatched = [node.name for node in known.fleet if known.unwatched(node.name)]
    if unwatched:
        return Headline(
            Severity.NOTE,
            f"nobody watches {_names(unwatched)}.",
            "Resume the watch. A failure there is not detected now.",
            deed="watch",
            target=unwatched[0] if len(unwatched) == 1 else FLEET,
        )
    return None


def _late_flow(known: Known) -> Headline | None:
    if known.stream.level is Severity.NOTE:
        return Headline(Severity.NOTE, known.stream.sentence, known.stream.advice, known.stream.since)
    return None


def _uncompared(known: Known) -> Headline | None:
    if (seen := known.store.value) is None:
        return None
    since = replica_repairs.overdue_since(
        _replicas(known), seen.compared, installed_at=seen.installed_at, now=known.now
    )
    if since is None:
        return None
    advice = "Look at anti_entropy in Airflow. Deleted rows can come back after ten days without a repair."
    return Headline(
        Severity.NOTE, "Cassandra's replicas were not repaired for more than a week.", advice, since
    )


def comparison_line(known: Known) -> str:
    """When Cassandra's replicas were repaired last; empty while unknown."""
    seen = known.store.value
    return replica_repairs.sentence(_replicas(known), seen.compared) if seen else ""


def _replicas(known: Known) -> list[str]:
    return [node.name for node in known.fleet.of(Role.CASSANDRA)]


CLUSTERS = {
    "Kafka": (Role.KAFKA,),
    "Spark": (Role.SPARK_MASTER, Role.SPARK_WORKER),
    "Cassandra": (Role.CASSANDRA,),
}


def fleet_rows(known: Known) -> dict[str, list[NodeRow]]:
    """Every node's row, by cluster in the order of the pipeline."""
    return {
        name: [node_row(known, node) for node in known.fleet.of(*roles)] for name, roles in CLUSTERS.items()
    }


def node_row(known: Known, node: Node) -> NodeRow:
    """The row of one node."""
    seen, incident = known.seen(node.name), known.open_incident(node.name)
    store = known.store.value
    notes = [f"recovery paused: {flag.reason}" for flag in known.flags(node.name)]
    if known.unwatched(node.name):
        notes.append("watch paused")
    if store and node.name in store.pending and incident is None:
        notes.append("its data is being repaired")
    notes.extend(_release_notes(known, node.name))
    level, state, since = Severity.WELL, "answers", None
    if seen is None:
        level, state = Severity.UNKNOWN, "not probed yet"
    elif seen.symptom is Symptom.DOWN:
        level, state, since = Severity.BAD, "down", seen.since
    elif seen.symptom is Symptom.HUNG:
        level, state, since = Severity.BAD, "hung", seen.since
    elif seen.since is not None:
        level, state, since = Severity.NOTE, "no answer", seen.since
    if incident is not None:
        since = incident.started_at
        level, state = Severity.BUSY, doing_now(incident, short=True)
        if failure(incident, known.now):
            level, state = Severity.BAD, "repair stuck"
    last = store.newest.get(node.name) if store else None
    return NodeRow(node, level, state, since, tuple(notes), last, incident.id if incident else None)


def _release_notes(known: Known, name: str) -> list[str]:
    seen, notes = known.releases.value, []
    if seen is None:
        return []
    runs, good = seen.nodes.get(name), seen.known_good
    if runs is not None and good is not None and runs.digest != good.digest:
        notes.append(f"runs release {short(runs.digest)}, {runs.verdict}")
    drifted = seen.drift.get(name, ())
    if drifted:
        notes.append(f"drift: {', '.join(drifted[:2])}{' and more' if len(drifted) > 2 else ''}")
    return notes


def short(digest: str) -> str:
    """A release's digest, shortened for display."""
    return digest[:12]


def release_line(reading: CachedValue[ReleasesSnapshot]) -> str:
    """The known-good release, and the nodes with drift; empty while unknown."""
    seen = reading.value
    if seen is None:
        return ""
    if seen.known_good is None:
        return "No release is known-good yet."
    drift = f" Drift on {_names(list(seen.drift))}." if seen.drift else " No drift."
    return f"Known-good release {short(seen.known_good.digest)}.{drift}"


DOING = {
    Phase.DETECT: "failure detected",
    Phase.CONFIRM: "confirming",
    Phase.ARCHIVE: "archiving logs",
    Phase.PROVISION: "provisioning a new server",
    Phase.CONFIGURE: "configuring",
    Phase.REJOIN: "rejoining its cluster",
    Phase.VERIFY: "verifying",
}


def phase_now(incident: Incident) -> Phase:
    """The phase of an open incident: the phase of its newest journal entry."""
    for entry in reversed(incident.entries):
        phase = PHASE_OF_STEP.get(entry.kind)
        if phase is not None and phase is not Phase.ARCHIVE:
            return phase
    return Phase.CONFIRM


def doing_now(incident: Incident, *, short: bool = False) -> str:
    """What is being done about an open incident, in a few words; ``short`` omits the newest journal entry."""
    doing = "waits for a decision" if incident.awaits_decision else DOING[phase_now(incident)]
    if incident.redundant_at is not None and phase_now(incident) is Phase.REJOIN:
        doing = "ready again, its data is being repaired"
    said = next((e.message for e in reversed(incident.entries) if e.message not in ("started", "done")), "")
    return doing if short or not said else f"{doing} ({said.rstrip('.')})"


def failure(incident: Incident, now: datetime) -> str | None:
    """Why an open incident makes no progress; None while it makes progress."""
    if not incident.entries:
        return None if now - incident.opened_at < SILENT_REPAIR else "its journal is empty."
    last = incident.entries[-1]
    if now - last.at > SILENT_REPAIR:
        return f"the last journal entry is from {last.at:%H:%M} UTC ({last.step})."
    newest = [e for e in incident.entries if e.data.get("mark") in ("start", "end", "failed")]
    failed = [e for e in newest if e.data.get("mark") == "failed"]
    # `record` is the last step of every run: a failure that is still the newest mark then was not resolved.
    if failed and last.kind == "record" and last.data.get("mark") == "end":
        return f"{failed[-1].step} {failed[-1].message}"
    return None


def refusal(incident: Incident) -> str:
    """The reasons of the newest refusal by the guards; empty when they did not refuse."""
    for entry in reversed(incident.entries):
        if "refused" in entry.data:
            return " ".join(entry.data["refused"])
    return ""


def node_of(approval: Approval) -> str:
    """The node of an open question, if its DAG is a watch; empty for a recovery by hand."""
    return approval.dag_id.removeprefix(WATCH) if approval.dag_id.startswith(WATCH) else ""


def _away(known: Known) -> list[Node]:
    return [node for node in known.fleet if (seen := known.seen(node.name)) and seen.symptom is not None]


def _nobody_acts(known: Known) -> bool:
    return known.airflow.value is not None and bool(known.airflow.value.late)


def _late(known: Known) -> str:
    late = known.airflow.value.late if known.airflow.value else ()
    return f"no heartbeat of Airflow's {_names(late)} for 30 s"


def _are(opened: Sequence[Incident]) -> str:
    return "is" if len(opened) == 1 else "are"


def _scopes(flags: Sequence[Maintenance]) -> str:
    return _names(["the whole fleet" if flag.scope == FLEET else flag.scope for flag in flags])


def _names(names: Sequence[str]) -> str:
    if not names:
        return ""
    if len(names) > 3:
        return f"{len(names)} servers"
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]

"""What the page says: from what was read to words. Pure; every sentence on the first screen is made here.

The headline answers four questions: is the pipeline well, since when, what is being repaired, what should I do.
The first rule that applies speaks, the gravest first:

1. a repair waits for a person's decision;
2. a repair failed and the node is still away;
3. a node is away and nobody heals it (watch paused, maintenance, Airflow's own parts late);
4. a repair is under way, or the watch is about to begin one;
5. the flow is sick: the stream is gone, what comes in isn't stored, or files don't come in;
6. nobody would notice the next failure (watches paused, Airflow's parts late), or somebody can't be asked;
7. the flow is late, files lost rows, or Cassandra's replicas weren't compared for too long;
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

# A step may take minutes (a Cassandra node streams its data), so silence of the journal alone is no failure.
SILENT_REPAIR = timedelta(minutes=10)
CONFIRM_WITHIN = timedelta(seconds=45)


@dataclass(frozen=True, slots=True)
class Headline:
    """The one sentence. ``since``: how long it has been so, UTC, None when nobody knows.

    ``advice``: what the reader should do; ``deed``, ``target``: the action that does it, None where there is none.
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
    """A node on the page. ``last``: its newest incident; ``notes``: paused watch, maintenance, data not whole."""

    node: Node
    level: Severity
    state: str
    since: datetime | None
    notes: tuple[str, ...]
    last: Incident | None
    incident: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """All that was read, at ``now`` (UTC). ``stream`` is the flow as words and figures (kintsugi.web.flow)."""

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
        """The node as it was probed last."""
        return (self.nodes.value or {}).get(name)

    def flags(self, name: str) -> list[Maintenance]:
        """Maintenance in force for the node: its own and the fleet's."""
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
    what = f"The repair of {name or first.run_id} was refused and waits for your decision."
    return Headline(
        Severity.BAD,
        what,
        reason or "Read why, then approve or decline.",
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
                f"The repair of {incident.node} is stuck: {trouble}",
                "The watch tries again and escalates. If it doesn't within a minute, recover the node by hand.",
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
        too = f" ({_names(others)} neither)" if others else ""
        lost = f"{node.name} does not answer{too}, and "
        if flags:
            return Headline(
                Severity.BAD,
                f"{lost}healing is paused.",
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
                Severity.BAD, f"{lost}Airflow does not act: {_late(known)}.", "Run `make up`.", since
            )
        if since is not None and known.now - since > CONFIRM_WITHIN:
            advice = "Look at its watch in Airflow, or recover it by hand."
            return Headline(
                Severity.BAD, f"{lost}no repair has begun.", advice, since, deed="recover", target=node.name
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
        advice = "Nothing to do yet: the watch confirms the failure and then repairs it."
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
            said = f"{reading.error} What is shown below may be old."
            return Headline(Severity.UNKNOWN, f"Can't tell: {what} can't be read.", said, reading.at)
        if reading.at is None:
            return Headline(Severity.UNKNOWN, "Looking…", "The first answers come within seconds.")
    return None


def _unnoticed(known: Known) -> Headline | None:
    if _nobody_acts(known):
        title = f"Nobody would notice a failure: {_late(known)}."
        return Headline(Severity.BAD, title, "Run `make up` on the control plane.")
    flags = known.store.value.maintenance if known.store.value else ()
    if flags:
        return Headline(
            Severity.NOTE,
            f"healing is paused for {_scopes(flags)}.",
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
            "Resume the watch, or a failure there goes unnoticed.",
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
    advice = "Look at anti_entropy in Airflow: rows that were deleted may come back after ten days."
    return Headline(
        Severity.NOTE, "Cassandra's replicas weren't compared for more than a week.", advice, since
    )


def comparison_line(known: Known) -> str:
    """When Cassandra's replicas were compared; empty while nobody could tell."""
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
    """What is said of one node."""
    seen, incident = known.seen(node.name), known.open_incident(node.name)
    store = known.store.value
    notes = [f"healing paused: {flag.reason}" for flag in known.flags(node.name)]
    if known.unwatched(node.name):
        notes.append("watch paused")
    if store and node.name in store.pending and incident is None:
        notes.append("its data is being made whole")
    notes.extend(_release_notes(known, node.name))
    level, state, since = Severity.WELL, "answers", None
    if seen is None:
        level, state = Severity.UNKNOWN, "not probed yet"
    elif seen.symptom is Symptom.DOWN:
        level, state, since = Severity.BAD, "down", seen.since
    elif seen.symptom is Symptom.HUNG:
        level, state, since = Severity.BAD, "hangs", seen.since
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
    """A release's digest as people say it."""
    return digest[:12]


def release_line(reading: CachedValue[ReleasesSnapshot]) -> str:
    """Which release is known-good, and which nodes drift from theirs; empty while nobody could tell."""
    seen = reading.value
    if seen is None:
        return ""
    if seen.known_good is None:
        return "No release is known-good yet."
    drift = f" Drift on {_names(list(seen.drift))}." if seen.drift else " No drift."
    return f"Known-good release {short(seen.known_good.digest)}.{drift}"


DOING = {
    Phase.DETECT: "found sick",
    Phase.CONFIRM: "confirming",
    Phase.ARCHIVE: "archiving logs",
    Phase.PROVISION: "making a new server",
    Phase.CONFIGURE: "configuring",
    Phase.REJOIN: "rejoining its cluster",
    Phase.VERIFY: "proving that it works",
}


def phase_now(incident: Incident) -> Phase:
    """The phase an open incident is in: that of the newest step begun, else of the newest written down."""
    for entry in reversed(incident.entries):
        phase = PHASE_OF_STEP.get(entry.kind)
        if phase is not None and phase is not Phase.ARCHIVE:
            return phase
    return Phase.CONFIRM


def doing_now(incident: Incident, *, short: bool = False) -> str:
    """What is being done about an open incident, in a few words; ``short`` leaves out the newest sentence."""
    doing = DOING[phase_now(incident)]
    if incident.redundant_at is not None and phase_now(incident) is Phase.REJOIN:
        doing = "serves again, its data is being made whole"
    said = next((e.message for e in reversed(incident.entries) if e.message not in ("started", "done")), "")
    return doing if short or not said else f"{doing} ({said.rstrip('.')})"


def failure(incident: Incident, now: datetime) -> str | None:
    """Why an open incident makes no progress; None while it does."""
    if not incident.entries:
        return None if now - incident.opened_at < SILENT_REPAIR else "its journal is empty."
    last = incident.entries[-1]
    if now - last.at > SILENT_REPAIR:
        return f"nothing was written down since {last.at:%H:%M} UTC ({last.step})."
    newest = [e for e in incident.entries if e.data.get("mark") in ("start", "end", "failed")]
    failed = [e for e in newest if e.data.get("mark") == "failed"]
    # `record` speaks last in every run: after it, a failure that is still the newest word was not overcome.
    if failed and last.kind == "record" and last.data.get("mark") == "end":
        return f"{failed[-1].step} {failed[-1].message}"
    return None


def refusal(incident: Incident) -> str:
    """The reasons with which the guards refused, newest first; empty when they didn't."""
    for entry in reversed(incident.entries):
        if "refused" in entry.data:
            return " ".join(entry.data["refused"])
    return ""


def node_of(approval: Approval) -> str:
    """The node that a waiting approval is about, as far as its DAG tells; empty for a recovery by hand."""
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

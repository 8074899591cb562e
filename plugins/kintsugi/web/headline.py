"""The headline of the page. Pure.

It answers four questions: is the pipeline healthy, since when, what is being repaired, what should I do.
The first rule that applies decides; the most severe rule comes first:

1. a repair waits for a person's decision;
2. a repair failed and the node is still down;
3. a node is down and is not recovered (watch paused, maintenance, a component of Airflow without heartbeat);
4. a repair is running, or the watch is about to start one;
5. the flow failed: the stream is gone, trades are not stored, or files are not ingested;
6. the next failure would not be detected (watches paused, Airflow without heartbeat), or a source can't be read;
7. a replacement of a protected node waits for an approval, the flow is late, files lost rows, or Cassandra's repair is
   overdue;
8. all is well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from kintsugi.core.dag_ids import REPLACE_DAG
from kintsugi.core.fleet import WATCH, watch_dag_id
from kintsugi.db import replica_repairs
from kintsugi.db.flags import FLEET, Maintenance
from kintsugi.web.health import HealthFacts, join_names
from kintsugi.web.incident_progress import describe_progress, describe_refusal, describe_stall
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import WORDS, Severity
from kintsugi.web.sources import Approval

CONFIRM_WITHIN = timedelta(seconds=45)


class Situation(StrEnum):
    """What a headline is about, for programs and tests; its wording may change."""

    WELL = "well"
    APPROVAL_NEEDED = "approval-needed"
    REPAIR_STUCK = "repair-stuck"
    RECOVERY_PAUSED = "recovery-paused"
    WATCH_PAUSED = "watch-paused"
    AIRFLOW_LATE = "airflow-late"
    NO_REPAIR = "no-repair"
    REPAIR_RUNNING = "repair-running"
    NODE_AWAY = "node-away"
    STREAM = "stream"
    INTAKE = "intake"
    SOURCE_AWAY = "source-away"
    LOADING = "loading"
    REPLICAS_OVERDUE = "replicas-overdue"


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline. ``since``: since when it has been true, UTC, None when unknown.

    ``advice``: what the reader should do; ``action``, ``target``: the action that does it, None when there is none.
    """

    situation: Situation
    level: Severity
    title: str
    advice: str
    since: datetime | None = None
    action: str | None = None
    target: str = ""

    @property
    def word(self) -> str:
        return WORDS[self.level]


def choose_headline(facts: HealthFacts) -> Headline:
    """The first rule of this module that applies."""
    for rule in (
        _report_open_approval,
        _report_failed_repair,
        _report_unrecovered_node,
        _report_repair,
        _report_flow,
        _report_intake,
        _report_unreadable_source,
        _report_unwatched_nodes,
        _report_open_replacement,
        _report_late_flow,
        _report_late_intake,
        _report_overdue_repair,
    ):
        headline = rule(facts)
        if headline is not None:
            return headline
    last = facts.store.value.last_trouble if facts.store.value else None
    count = len(facts.fleet.nodes)
    return Headline(
        Situation.WELL,
        Severity.WELL,
        f"All {count} nodes answer and trades flow.",
        "Nothing to do.",
        since=last,
    )


def _report_open_approval(facts: HealthFacts) -> Headline | None:
    first = _first_approval(facts, of_replacement=False)
    if first is None:
        return None
    name = node_of_approval(first)
    incident = facts.open_incident(name) if name else None
    reason = describe_refusal(incident) if incident else ""
    what = f"The repair of {name or first.run_id} was refused. Your decision is needed."
    return Headline(
        Situation.APPROVAL_NEEDED,
        Severity.BAD,
        what,
        reason or "Read the reason. Then approve or decline the repair.",
        since=first.since,
        action="approve",
        target=_target_of(first),
    )


def _first_approval(facts: HealthFacts, *, of_replacement: bool) -> Approval | None:
    approvals = facts.airflow.value.approvals if facts.airflow.value else ()
    return next((one for one in approvals if (one.dag_id == REPLACE_DAG) is of_replacement), None)


def _target_of(approval: Approval) -> str:
    return ":".join((approval.dag_id, approval.run_id, approval.task_id, str(approval.map_index)))


def _report_open_replacement(facts: HealthFacts) -> Headline | None:
    first = _first_approval(facts, of_replacement=True)
    if first is None:
        return None
    return Headline(
        Situation.APPROVAL_NEEDED,
        Severity.NOTE,
        first.subject,
        "The node serves, and nothing was touched yet. Approve or decline its replacement.",
        since=first.since,
        action="approve",
        target=_target_of(first),
    )


def _report_failed_repair(facts: HealthFacts) -> Headline | None:
    for incident in facts.open_incidents:
        trouble = describe_stall(incident, facts.now)
        if trouble is not None:
            return Headline(
                Situation.REPAIR_STUCK,
                Severity.BAD,
                f"The repair of {incident.node} makes no progress: {trouble}",
                "The watch tries the next escalation step. If it does not within a minute, recover the node by hand.",
                since=incident.started_at,
                action="recover",
                target=incident.node,
            )
    return None


def _report_unrecovered_node(facts: HealthFacts) -> Headline | None:
    for node in facts.nodes_away():
        if facts.open_incident(node.name):
            continue
        seen = facts.last_probe(node.name)
        flags, since = facts.maintenance_of(node.name), seen.since if seen else None
        others = [other.name for other in facts.nodes_away() if other != node]
        too = f" (nor {join_names(others)})" if others else ""
        lost = f"{node.name} does not answer{too}, and "
        if flags:
            return Headline(
                Situation.RECOVERY_PAUSED,
                Severity.BAD,
                f"{lost}recovery is paused.",
                str(flags[0]),
                since,
                action="resume",
                target=flags[0].scope,
            )
        if facts.is_unwatched(node.name):
            advice = f"Resume {watch_dag_id(node.name)}, or recover the node by hand."
            return Headline(
                Situation.WATCH_PAUSED,
                Severity.BAD,
                f"{lost}its watch is paused.",
                advice,
                since,
                action="recover",
                target=node.name,
            )
        if facts.airflow_is_late:
            return Headline(
                Situation.AIRFLOW_LATE,
                Severity.BAD,
                f"{lost}Airflow does not react: {_describe_late_airflow(facts)}.",
                "Run `make up`.",
                since,
            )
        if since is not None and facts.now - since > CONFIRM_WITHIN:
            advice = "Look at its watch in Airflow, or recover the node by hand."
            return Headline(
                Situation.NO_REPAIR,
                Severity.BAD,
                f"{lost}no repair has started.",
                advice,
                since,
                action="recover",
                target=node.name,
            )
    return None


def _report_repair(facts: HealthFacts) -> Headline | None:
    opened = facts.open_incidents
    if opened:
        names = " and ".join(incident.node for incident in opened)
        doing = " ".join(f"{incident.node}: {describe_progress(incident)}." for incident in opened)
        started = min(incident.started_at for incident in opened)
        return Headline(
            Situation.REPAIR_RUNNING,
            Severity.BUSY,
            f"{names} failed and {'is' if len(opened) == 1 else 'are'} being repaired.",
            f"Nothing to do. {doing}",
            started,
        )
    away = facts.nodes_away()
    if away:
        seen = facts.last_probe(away[0].name)
        names = join_names([node.name for node in away])
        advice = "Nothing to do yet. The watch confirms the failure, then it repairs the node."
        return Headline(
            Situation.NODE_AWAY,
            Severity.BUSY,
            f"{names} stopped answering.",
            advice,
            seen.since if seen else None,
        )
    return None


def _report_flow(facts: HealthFacts, level: Severity = Severity.BAD) -> Headline | None:
    stream = facts.stream
    if stream.level is not level:
        return None
    return Headline(Situation.STREAM, level, stream.sentence, stream.advice, stream.since)


def _report_late_flow(facts: HealthFacts) -> Headline | None:
    return _report_flow(facts, Severity.NOTE)


def _report_intake(facts: HealthFacts, level: Severity = Severity.BAD) -> Headline | None:
    seen = facts.intake
    if seen is None or seen.level is not level:
        return None
    return Headline(Situation.INTAKE, level, seen.sentence, seen.advice, seen.since, action=seen.action)


def _report_late_intake(facts: HealthFacts) -> Headline | None:
    return _report_intake(facts, Severity.NOTE)


def _report_unreadable_source(facts: HealthFacts) -> Headline | None:
    silent: dict[str, CachedValue[Any]] = {
        "Postgres": facts.store,
        "the nodes' probes": facts.nodes,
        "Airflow's tables": facts.airflow,
    }
    for what, reading in silent.items():
        if reading.error is not None:
            advice = f"{reading.error} The data below may be old."
            return Headline(
                Situation.SOURCE_AWAY, Severity.UNKNOWN, f"{what} can't be read.", advice, reading.at
            )
        if reading.at is None:
            return Headline(
                Situation.LOADING, Severity.UNKNOWN, "Loading…", "The first readings arrive within seconds."
            )
    return None


def _report_unwatched_nodes(facts: HealthFacts) -> Headline | None:
    if facts.airflow_is_late:
        title = f"A failure would not be detected: {_describe_late_airflow(facts)}."
        return Headline(Situation.AIRFLOW_LATE, Severity.BAD, title, "Run `make up` on the control plane.")
    flags = facts.store.value.maintenance if facts.store.value else ()
    if flags:
        return Headline(
            Situation.RECOVERY_PAUSED,
            Severity.NOTE,
            f"recovery is paused for {_join_scopes(flags)}.",
            " ".join(str(flag) for flag in flags),
            flags[0].since,
            action="resume",
            target=flags[0].scope,
        )
    unwatched = [node.name for node in facts.fleet if facts.is_unwatched(node.name)]
    if unwatched:
        return Headline(
            Situation.WATCH_PAUSED,
            Severity.NOTE,
            f"nobody watches {join_names(unwatched)}.",
            "Resume the watch. A failure there is not detected now.",
            action="watch",
            target=unwatched[0] if len(unwatched) == 1 else FLEET,
        )
    return None


def _report_overdue_repair(facts: HealthFacts) -> Headline | None:
    if (seen := facts.store.value) is None:
        return None
    since = replica_repairs.overdue_since(
        facts.replica_names, seen.replica_repairs, installed_at=seen.installed_at, now=facts.now
    )
    if since is None:
        return None
    advice = "Look at anti_entropy in Airflow. Deleted rows can come back after ten days without a repair."
    return Headline(
        Situation.REPLICAS_OVERDUE,
        Severity.NOTE,
        "Cassandra's replicas were not repaired for more than a week.",
        advice,
        since,
    )


def node_of_approval(approval: Approval) -> str:
    """The node of an open question, if its DAG is a watch; empty for a recovery by hand."""
    return approval.dag_id.removeprefix(WATCH) if approval.dag_id.startswith(WATCH) else ""


def _describe_late_airflow(facts: HealthFacts) -> str:
    late = facts.airflow.value.late if facts.airflow.value else ()
    return f"no heartbeat of Airflow's {join_names(late)} for 30 s"


def _join_scopes(flags: Sequence[Maintenance]) -> str:
    return join_names(["the whole fleet" if flag.scope == FLEET else flag.scope for flag in flags])

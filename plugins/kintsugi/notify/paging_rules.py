"""When an incident pages a person. Pure: from incidents to pages.

1. A guard refused a repair, or every escalation step failed (``decide`` then says "page", which is also recorded as a
   refusal). The node stays down until a person decides.
2. A repair was closed as failed. The node answers, so no watch continues the repair; the sweep of incidents could not
   verify the node either.
3. An open incident has had no journal entry for STUCK. The run that repaired it is gone, and no run took over.
4. An incident has been open for OVERDUE although its repair continues. (A run by hand has a deadline in Airflow.)
5. A watch reported a node UNFOUNDED times within an hour, and no failure was confirmed. No recovery will fix that.
6. The guards have waited for WAITING on an open incident. The node is down or unreachable, and no action is allowed.
7. A repair failed because of the control plane. The node is not the cause, and every repair fails the same way.

A refusal caused only by a maintenance flag does not page, because it is planned; after MAINTAINED it does.
Incidents with one cause make one page: incidents whose nodes were named as sharing a common cause, and incidents of
one kind and symptom that began within TOGETHER. So a page waits for GATHER. Incidents that join later make one more
page. For recurring failures see `kintsugi.notify.recurring_failures`.

Every other incident recovers without a person and is listed in the digest. A node that stays down is detected many
times while a person is on the way. Incidents of a node that follow each other within UNBROKEN and did not recover are
one reason to page; the page is repeated every REMIND.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kintsugi.core.fleet import WATCH, watch_dag_id
from kintsugi.core.incident import Incident, Outcome

UNBROKEN = timedelta(hours=1)
REMIND = timedelta(hours=2)
STUCK = timedelta(minutes=20)
OVERDUE = timedelta(minutes=30)
RECENT = timedelta(days=1)
UNFOUNDED = 6
WAITING = timedelta(minutes=4)
TOGETHER = timedelta(seconds=60)
STALL = timedelta(minutes=10)
GATHER = timedelta(seconds=10)
MAINTAINED = timedelta(hours=12)
COMMON_CAUSE = "common_cause"
"""Field of a journal entry: ``{"cause": …, "zone": …, "nodes": […]}``, as `kintsugi.recovery.common_cause` found it,
or None. ``zone`` is None unless the zone is the cause."""
CONTROL_PLANE = "control_plane"
"""Field of a journal entry: the step failed because of the control plane, not because of its node."""
SWEEP = "sweep__"  # as sweep_rules.RUN_PREFIX


@dataclass(frozen=True, slots=True)
class Page:
    """A page to a person. ``key`` stays the same while the reason stays the same."""

    key: str
    title: str
    text: str

    @property
    def body(self) -> dict[str, str]:
        """The body of its message in the outbox."""
        return {"title": self.title, "text": self.text}


def incident_pages(incidents: Iterable[Incident], now: datetime) -> list[Page]:
    """The pages that the incidents of the last day require at ``now`` (UTC), oldest incident first."""
    incidents = list(incidents)
    calls: list[_Call] = []
    by_node: dict[str, list[Incident]] = {}
    for incident in sorted(incidents, key=lambda incident: incident.opened_at):
        chain = _extend_chain(by_node.get(incident.node, []), incident)
        by_node[incident.node] = chain
        call = _make_call(incident, chain[0], now)
        if call is not None and now - incident.last_word < RECENT:
            calls.append(call)
    pages = [page for group in _group_calls(calls) for page in _pages_of(group, now)]
    for node in by_node:
        alarms = [one for one in incidents if one.node == node and _is_unfounded(one, now)]
        if len(alarms) >= UNFOUNDED:
            pages.append(_unfounded_page(node, alarms))
    return list({page.key: page for page in pages}.values())


@dataclass(frozen=True, slots=True)
class _Call:
    """The page of one incident alone. ``first``: the first incident of its chain. ``page.key``: by chain and reminder.

    ``kind``: pages of different kinds are never combined.
    """

    kind: str
    incident: Incident
    first: Incident
    page: Page

    @property
    def at(self) -> datetime:
        """When the reason of the chain began, UTC; constant while the chain continues."""
        refusals = (entry.at for entry in self.first.entries if "refused" in entry.data)
        return next(refusals, self.first.closed_at or self.first.opened_at)

    @property
    def named(self) -> frozenset[str]:
        """The nodes that were named as sharing the common cause; see COMMON_CAUSE."""
        cause = self.common_cause
        return frozenset(cause["nodes"]) if cause else frozenset()

    @property
    def common_cause(self) -> Mapping[str, Any] | None:
        """The newest common cause that the guards named; see COMMON_CAUSE."""
        causes = [entry.data[COMMON_CAUSE] for entry in self.first.entries if entry.data.get(COMMON_CAUSE)]
        return causes[-1] if causes else None

    @property
    def symptom(self) -> str | None:
        """The newest failure mode of the node."""
        verdicts = [entry.data["verdict"] for entry in self.first.entries if "verdict" in entry.data]
        return str(verdicts[-1]) if verdicts else None

    def shares_cause_with(self, other: _Call) -> bool:
        """Whether both have one cause: a named common cause, or the same symptom at the same time."""
        if self.kind != other.kind:
            return False
        if self.page.key == other.page.key:
            return True
        if self.kind.startswith(CONTROL_PLANE):
            return True
        mine, theirs = self.first, other.first
        apart = abs(mine.first_failed_at - theirs.first_failed_at)
        if apart <= STALL and (mine.node in other.named or theirs.node in self.named):
            return True
        return self.symptom == other.symptom and apart <= TOGETHER and mine.node != theirs.node


def _group_calls(calls: Iterable[_Call]) -> list[list[_Call]]:
    """The calls grouped by cause; each group is ordered by the start of its chains."""
    groups: list[list[_Call]] = []
    for call in sorted(calls, key=lambda call: (call.first.opened_at, call.first.id)):
        for group in groups:
            if call.shares_cause_with(group[0]):
                group.append(call)
                break
        else:
            groups.append([call])
    return groups


def _pages_of(group: Sequence[_Call], now: datetime) -> list[Page]:
    """One page for the group, and a second one for calls that joined after the first was sent; each when it is due.

    The first page is sent when no call has joined for GATHER, at the latest after 3 GATHER. The second page waits until
    few calls can still join. A failure of the control plane is one page, whatever node it can't repair.
    """
    ordered = sorted(group, key=lambda call: call.at)
    began = ordered[0].at
    due = began + GATHER
    for call in ordered:
        if call.at <= due:
            due = min(call.at + GATHER, began + 3 * GATHER)
    before = [call for call in group if call.at <= due]
    after = [call for call in ordered if call.at > due]
    pages = [_one_page(before, before[0].page.key)] if now >= due else []
    complete = after and now >= max(began + TOGETHER, after[-1].at) + GATHER
    if complete and not group[0].kind.startswith(CONTROL_PLANE):
        nodes = {call.incident.node for call in after}
        pages.append(_one_page(after, f"{before[0].page.key}/more/{len(nodes)}"))
    return pages


def _one_page(calls: Sequence[_Call], key: str) -> Page:
    """The page of one call, or one page that names the nodes of all calls."""
    nodes = list(dict.fromkeys(call.incident.node for call in calls))
    page = calls[0].page
    if len(nodes) == 1:
        return Page(key, page.title, page.text)
    reasons = "\n".join(f"- {call.incident.node}: {call.page.text.splitlines()[0]}" for call in calls)
    title = page.title.replace(calls[0].incident.node, f"{len(nodes)} nodes ({', '.join(nodes)})", 1)
    return Page(
        key,
        title.replace(") needs a person: its", ") need a person: their", 1).replace(
            ") is not", ") are not", 1
        ),
        f"These failures probably have one cause{_shared_zone(calls, nodes)}:\n{reasons}\n{page.text}",
    )


def _shared_zone(calls: Sequence[_Call], nodes: Sequence[str]) -> str:
    """The zone that a journal names as the cause of all these nodes, as a part of a sentence; else empty."""
    causes = [call.common_cause for call in calls]
    zones = [
        cause["zone"] for cause in causes if cause and cause.get("zone") and set(nodes) <= set(cause["nodes"])
    ]
    return f", zone {zones[-1]}" if zones else ""


def _extend_chain(before: Sequence[Incident], incident: Incident) -> list[Incident]:
    """The chain of unrecovered incidents that ``incident`` continues or starts."""
    last = before[-1] if before else None
    goes_on = (
        last is not None
        and last.outcome in (Outcome.REFUSED, Outcome.FAILED)
        and last.closed_at is not None
        and incident.opened_at - last.closed_at < UNBROKEN
    )
    return [*before, incident] if goes_on else [incident]


def _make_call(incident: Incident, first: Incident, now: datetime) -> _Call | None:
    """The call of the most severe rule that applies to the incident; None when no rule applies."""
    for kind, rule in (
        (CONTROL_PLANE, _control_plane_page),
        ("refused", _refused_page),
        ("failed", _failed_page),
        ("waiting", _waiting_page),
        ("stuck", _stuck_page),
        ("overdue", _overdue_page),
    ):
        if (due := rule(incident, first, now)) is not None:
            reminder, page = due
            return _Call(f"{kind}/{reminder}", incident, first, page)
    return None


def _see_also(incident: Incident) -> str:
    return f"See `make incident ID={incident.id}`, and {watch_dag_id(incident.node)} in Airflow."


def _control_plane_page(incident: Incident, first: Incident, now: datetime) -> tuple[int, Page] | None:
    failures = [entry for entry in incident.entries if entry.data.get(CONTROL_PLANE)]
    if not failures or incident.outcome not in (None, Outcome.FAILED):
        return None
    last = failures[-1]
    reminder = int((last.at - first.opened_at) / REMIND)
    return reminder, Page(
        f"page/control-plane/{first.id}/{reminder}",
        f"The control plane needs a person: it can't repair {incident.node}",
        f"{last.message}\nThe repair is tried again and no escalation step was used. Fix the control plane "
        f"(its disk, Postgres, its programs); see `make status`. {_see_also(incident)}",
    )


def _refused_page(incident: Incident, first: Incident, now: datetime) -> tuple[int, Page] | None:
    refusals = [entry for entry in incident.entries if "refused" in entry.data]
    if not refusals or incident.outcome in (Outcome.HEALED, Outcome.FALSE_ALARM):
        return None
    last = refusals[-1]
    if last.data.get("gates") == ["maintenance"] and now - first.opened_at < MAINTAINED:
        return None
    reason = last.message.removeprefix("refused: ")
    reminder = int((last.at - first.opened_at) / REMIND)
    return reminder, Page(
        f"page/refused/{first.id}/{reminder}",
        f"{incident.node} needs a person: its repair was refused",
        f"{reason}\nApprove or decline under 'Required Actions' in Airflow, or repair it by hand. "
        f"{_see_also(incident)}",
    )


def _failed_page(incident: Incident, first: Incident, now: datetime) -> tuple[int, Page] | None:
    if incident.outcome is not Outcome.FAILED:
        return None
    return 0, Page(
        f"page/failed/{incident.id}",
        f"{incident.node} needs a person: its repair failed",
        f"{incident.reason or 'no reason was recorded'}\nIt is not tried again automatically. {_see_also(incident)}",
    )


def _waiting_page(incident: Incident, first: Incident, now: datetime) -> tuple[int, Page] | None:
    answers = [entry for entry in incident.entries if entry.step == "guard" and "waiting" in entry.data]
    if incident.closed_at is not None or not answers or not answers[-1].data["waiting"]:
        return None
    if now - incident.first_failed_at <= WAITING:
        return None
    why = next(entry.message for entry in reversed(incident.entries) if "verdict" in entry.data)
    return 0, Page(
        f"page/waiting/{incident.id}",
        f"{incident.node} needs a person: its repair waits too long",
        f"{why}\n{answers[-1].message} Nothing was changed. Check the node and the network to it. "
        f"{_see_also(incident)}",
    )


def _stuck_page(incident: Incident, first: Incident, now: datetime) -> tuple[int, Page] | None:
    if incident.closed_at is not None or now - incident.last_word <= STUCK:
        return None
    return 0, Page(
        f"page/stuck/{incident.id}/{len(incident.entries)}",
        f"{incident.node} needs a person: its repair makes no progress",
        f"Its journal has had no new entry since {incident.last_word:%H:%M:%S} UTC. Check that Airflow runs. "
        f"{_see_also(incident)}",
    )


def _overdue_page(incident: Incident, first: Incident, now: datetime) -> tuple[int, Page] | None:
    by_itself = incident.holder.startswith(WATCH) or f"/{SWEEP}" in incident.holder
    if incident.closed_at is not None or not by_itself or now - incident.opened_at <= OVERDUE:
        return None
    last = incident.entries[-1].message if incident.entries else "nothing"
    return 0, Page(
        f"page/overdue/{incident.id}",
        f"{incident.node} is not recovered after {OVERDUE.total_seconds() / 60:.0f} minutes",
        f"Its repair is still running. Last entry: {last}\n{_see_also(incident)}",
    )


def _is_unfounded(incident: Incident, now: datetime) -> bool:
    """Whether the incident is a false alarm of a watch in the last hour."""
    return (
        incident.outcome is Outcome.FALSE_ALARM
        and incident.holder.startswith(WATCH)
        and now - incident.last_word < UNBROKEN
    )


def _unfounded_page(node: str, alarms: Sequence[Incident]) -> Page:
    first = min(alarms, key=lambda incident: incident.opened_at)
    last = max(alarms, key=lambda incident: incident.opened_at)
    return Page(
        f"page/unfounded/{node}/{first.opened_at:%Y%m%dT%H}",
        f"{node} needs a person: its watch raises repeated false alarms",
        f"It found the node down {len(alarms)} times within the hour. Each time the repeated probe found nothing "
        f"wrong, and nothing was changed. The last time: {last.reason}\n"
        f"See `make incident ID={last.id}`, and {watch_dag_id(node)} in Airflow. Trigger recover_node to act by hand.",
    )

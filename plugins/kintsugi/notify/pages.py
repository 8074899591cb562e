"""When is a person needed? Pure: from incidents to pages.

1. A guard refused a repair, or every action was tried in vain (``decide`` then says "page", which ends as a
   refusal too): the node stays sick until a person decides.
2. A repair ended as failed and was closed: the node answers, so no watch will continue it, but it wasn't proven
   well.
3. An open incident whose journal has stood still for STUCK: whoever repaired it is gone, and nobody took over.
4. A watch's incident that is open for OVERDUE though its repair goes on. (A run by hand has a deadline in Airflow.)
5. A watch that found a node sick UNFOUNDED times within an hour, and each time nothing was found to be wrong with it:
   whatever it is, nobody heals it.

Everything else heals without anybody, and stands in the digest. A sick node is detected again and again while a
person is on the way; incidents of a node that follow each other within UNBROKEN and didn't heal are one reason to
page, repeated every REMIND.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kintsugi.fleet import WATCH, watch_of
from kintsugi.incident import Incident, Outcome

UNBROKEN = timedelta(hours=1)
REMIND = timedelta(hours=2)
STUCK = timedelta(minutes=20)
OVERDUE = timedelta(minutes=30)
RECENT = timedelta(days=1)
UNFOUNDED = 6


@dataclass(frozen=True, slots=True)
class Page:
    """One call for a person. ``key`` is the same for as long as it is the same call."""

    key: str
    title: str
    text: str

    @property
    def body(self) -> dict[str, str]:
        """What the outbox keeps of it."""
        return {"title": self.title, "text": self.text}


def pages(incidents: Iterable[Incident], now: datetime) -> list[Page]:
    """The calls that the incidents of the last day justify at ``now`` (UTC), oldest incident first."""
    found: dict[str, Page] = {}
    incidents = list(incidents)
    by_node: dict[str, list[Incident]] = {}
    for incident in sorted(incidents, key=lambda incident: incident.opened_at):
        chain = _chain(by_node.get(incident.node, []), incident)
        by_node[incident.node] = chain
        page = _page(incident, chain[0], now)
        if page is not None and now - incident.last_word < RECENT:
            found[page.key] = page
    for node in by_node:
        alarms = [one for one in incidents if one.node == node and _unfounded(one, now)]
        if len(alarms) >= UNFOUNDED:
            page = _unfounded_page(node, alarms)
            found[page.key] = page
    return list(found.values())


def _chain(before: Sequence[Incident], incident: Incident) -> list[Incident]:
    """The run of unhealed incidents that ``incident`` continues, or begins."""
    last = before[-1] if before else None
    goes_on = (
        last is not None
        and last.outcome in (Outcome.REFUSED, Outcome.FAILED)
        and last.closed_at is not None
        and incident.opened_at - last.closed_at < UNBROKEN
    )
    return [*before, incident] if goes_on else [incident]


def _page(incident: Incident, first: Incident, now: datetime) -> Page | None:
    refusals = [entry for entry in incident.entries if "refused" in entry.data]
    where = f"See `make incident ID={incident.id}`, and {watch_of(incident.node)} in Airflow."
    if refusals:
        said = refusals[-1].message.removeprefix("refused: ")
        reminder = int((refusals[-1].at - first.opened_at) / REMIND)
        return Page(
            f"page/refused/{first.id}/{reminder}",
            f"{incident.node} needs a person: its repair was refused",
            f"{said}\nApprove or decline under 'required actions' in Airflow, or repair it by hand. {where}",
        )
    if incident.outcome is Outcome.FAILED:
        return Page(
            f"page/failed/{incident.id}",
            f"{incident.node} needs a person: its repair failed",
            f"{incident.reason or 'no reason was recorded'}\nNothing will try again by itself. {where}",
        )
    if incident.closed_at is None and now - incident.last_word > STUCK:
        return Page(
            f"page/stuck/{incident.id}/{len(incident.entries)}",
            f"{incident.node} needs a person: its repair stands still",
            f"Nothing was written since {incident.last_word:%H:%M:%S} UTC. Does Airflow run? {where}",
        )
    if (
        incident.closed_at is None
        and incident.holder.startswith(WATCH)
        and now - incident.opened_at > OVERDUE
    ):
        return Page(
            f"page/overdue/{incident.id}",
            f"{incident.node} is not healed after {OVERDUE.total_seconds() / 60:.0f} minutes",
            f"Its repair goes on, last with: {incident.entries[-1].message}\n{where}",
        )
    return None


def _unfounded(incident: Incident, now: datetime) -> bool:
    """Whether a watch's finding of the last hour came to nothing."""
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
        f"{node} needs a person: its watch finds it sick again and again",
        f"{len(alarms)} times within the hour, and nothing was touched. The last time: {last.reason}\n"
        f"See `make incident ID={last.id}`, and {watch_of(node)} in Airflow; recover_node acts on your word.",
    )

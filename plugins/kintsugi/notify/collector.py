"""Collect new pages, traces and markers from the store and put them into the outbox.

Recovery, ingest and chaos send no messages themselves. They record what happened in Postgres, and this module reads
it from there. So a message costs a recovery no time, and a killed process loses no message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kintsugi.core.incident import Incident
from kintsugi.db.flags import RecordedFault
from kintsugi.db.ledger_entry import LedgerEntry
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.notify.paging_rules import incident_pages
from kintsugi.notify.recurring_failures import pattern_pages
from kintsugi.telemetry.ingest_trace import ingest_key
from kintsugi.telemetry.markers import Marker

RECENT = timedelta(days=1)
INCIDENT, CHAOS = "kintsugi-incident", "kintsugi-chaos"


@dataclass(frozen=True, slots=True)
class Item:
    """A message that is sent once."""

    key: str
    kind: MessageKind
    body: dict[str, Any]


def page_items(
    incidents: Iterable[Incident],
    now: datetime,
    *,
    exits: Mapping[str, Sequence[datetime]] | None = None,
    faults: Iterable[RecordedFault] = (),
) -> list[Item]:
    """The pages that are due. ``exits``: when services exited by themselves, by node."""
    incidents = list(incidents)
    pages = [*incident_pages(incidents, now), *pattern_pages(incidents, now, exits=exits, faults=faults)]
    return [Item(page.key, MessageKind.PAGE, page.body) for page in pages]


def trace_items(incidents: Iterable[Incident], files: Iterable[LedgerEntry], now: datetime) -> list[Item]:
    """A trace for each incident that was closed and each file that was ingested in the last day."""
    closed = (
        Item(f"trace/incident/{incident.id}", MessageKind.INCIDENT_TRACE, {"incident": incident.id})
        for incident in incidents
        if incident.closed_at is not None and now - incident.closed_at < RECENT
    )
    done = (
        Item(f"trace/{ingest_key(file)}", MessageKind.INGEST_TRACE, {"key": file.key, "etag": file.etag})
        for file in files
        if file.finished_at is not None and now - file.finished_at < RECENT
    )
    return [*closed, *done]


def marker_items(incidents: Iterable[Incident], faults: Iterable[RecordedFault], now: datetime) -> list[Item]:
    """Start and end of each incident and of each fault of the last day.

    A fault ends with the incident that it caused. Without a closed incident its marker has no end.
    """
    items: list[Item] = []
    ended: dict[tuple[str, datetime], datetime] = {}
    for incident in incidents:
        if incident.t0 is not None and incident.closed_at is not None:
            ended[incident.node, incident.t0] = incident.closed_at
        if now - incident.opened_at < RECENT:
            what = f"{incident.node}: {incident.outcome or 'incident'} ({incident.id})"
            marker = Marker(INCIDENT, what, incident.started_at, incident.closed_at)
            items += _marker_items(f"marker/incident/{incident.id}", marker)
    for fault in faults:
        if now - fault.t0 < RECENT:
            marker = Marker(
                CHAOS,
                f"{fault.node}: {fault.kind} ({fault.run})",
                fault.t0,
                ended.get((fault.node, fault.t0)),
            )
            items += _marker_items(f"marker/chaos/{fault.node}/{fault.t0.isoformat()}", marker)
    return items


def _marker_items(key: str, marker: Marker) -> list[Item]:
    body = {
        "type": marker.type,
        "message": marker.message,
        "start": marker.start.isoformat(),
        "begin_key": f"{key}/begin",
    }
    begin = Item(f"{key}/begin", MessageKind.MARKER, body)
    if marker.end is None:
        return [begin]
    return [begin, Item(f"{key}/end", MessageKind.MARKER, {**body, "end": marker.end.isoformat()})]


def put_items(outbox: Outbox, items: Iterable[Item]) -> int:
    """Put new items into the outbox; returns the number of new items."""
    return sum(outbox.add_message(item.key, item.kind, item.body) for item in items)

"""The daily digest of incidents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kintsugi.core.connections import store_dsn
from kintsugi.core.dag_ids import is_replacement
from kintsugi.core.incident import Incident, Outcome
from kintsugi.db.outbox import MessageKind, Outbox

if TYPE_CHECKING:
    from kintsugi.operations.context import Context

PERIOD = timedelta(days=1)
MOST = 1000  # incidents in one digest


def format_digest(
    incidents: Sequence[Incident],
    undelivered: Sequence[tuple[str, str | None]],
    since: datetime,
    until: datetime,
) -> tuple[str, str]:
    """Title and text of the digest of ``since`` to ``until`` (UTC); other incidents are left out. Pure.

    ``undelivered``: messages of the outbox that wait or were given up, each with its last error.
    """
    listed = sorted(
        (incident for incident in incidents if since <= incident.opened_at < until),
        key=lambda incident: incident.opened_at,
    )
    counts = Counter(incident.outcome.value if incident.outcome else "open" for incident in listed)
    summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no incident"
    lines = [f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC: {summary}.", ""]
    lines += [_format_line(incident) for incident in listed]
    if undelivered:
        lines += ["", f"{len(undelivered)} messages were not delivered:"]
        lines += [f"- {key}: {error or 'not tried yet'}" for key, error in undelivered]
    return f"Kintsugi: {summary}", "\n".join(lines).rstrip()


def _format_line(incident: Incident) -> str:
    what = incident.outcome.value if incident.outcome else "still open"
    line = f"- {incident.opened_at:%H:%M} {incident.node}: {what}"
    if incident.outcome is Outcome.HEALED and incident.repair_s is not None:
        line += f" in {incident.repair_s:.0f} s (detected after {incident.detect_s:.1f} s)"
    if incident.t0 is not None:
        line += ", injected fault"
    if is_replacement(incident.holder):
        line += ", on purpose"
    return f"{line}; {incident.reason}" if incident.reason else line


def put_digest(context: Context, until: datetime) -> str:
    """Put the digest of the 24 hours before ``until`` into the outbox, once; returns its title."""
    outbox = Outbox(store_dsn(context.settings))
    until = until.astimezone(UTC)
    title, text = format_digest(
        context.store.read_incidents(MOST), outbox.read_undelivered(), until - PERIOD, until
    )
    outbox.add_message(
        f"digest/{until:%Y-%m-%dT%H:%M:%S}", MessageKind.DIGEST, {"title": title, "text": text}
    )
    return title

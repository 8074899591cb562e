"""Page for failures that recur after each recovery. Pure: from incidents and from exits in the nodes' init logs.

1. Crash loop: within LOOP, a node had LOOP_INCIDENTS incidents that were recovered or were false alarms.
2. Crash loop that no watch detects: within LOOP, an init restarted a service LOOP_EXITS times. A restart can be too
   quick for a watch to notice.
3. The same failure again: within DAY, DAY_INCIDENTS incidents of a node had the same failure mode.

Injected faults, dry runs and runs by hand don't count. Refused and failed repairs page anyway
(`kintsugi.notify.paging_rules`). A pattern pages once in each REMIND, counted by the clock, while it continues.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from kintsugi.core.fleet import WATCH, watch_dag_id
from kintsugi.core.incident import Incident, Outcome
from kintsugi.db.flags import RecordedFault
from kintsugi.notify.paging_rules import REMIND, Page

LOOP = timedelta(hours=1)
LOOP_INCIDENTS = 5
LOOP_EXITS = 6
DAY = timedelta(days=1)
DAY_INCIDENTS = 4

# supervisord: "exited: kafka (exit status 1; not expected)". What was stopped on purpose is "stopped: …".
_EXITED = re.compile(r"^(\S+) .*\bexited: (\S+) \(")


def pattern_pages(
    incidents: Iterable[Incident],
    now: datetime,
    *,
    exits: Mapping[str, Sequence[datetime]] | None = None,
    faults: Iterable[RecordedFault] = (),
) -> list[Page]:
    """The pages that are due at ``now`` (UTC), at most one a node. ``exits``: times of exits by node name."""
    recovered: dict[str, list[Incident]] = {}
    for incident in incidents:
        if _is_counted(incident) and now - incident.opened_at < DAY:
            recovered.setdefault(incident.node, []).append(incident)
    injected = Counter(fault.node for fault in faults if now - fault.t0 < LOOP)
    pages = []
    for node in sorted({*recovered, *(exits or {})}):
        own = recovered.get(node, [])
        late_exits = [at for at in (exits or {}).get(node, ()) if timedelta() <= now - at < LOOP]
        pattern = (
            _describe_loop(own, now)
            or _describe_exits(late_exits, injected[node])
            or _describe_same_failure(own)
        )
        if pattern is not None:
            pages.append(_pattern_page(node, pattern, own, now))
    return pages


def exits_in(lines: Iterable[str], service: str) -> list[datetime]:
    """When an init saw its service exit by itself; ``lines``: its log, each beginning with a time in ISO 8601."""
    exits = []
    for line in lines:
        matched = _EXITED.match(line)
        if matched is None or matched[2] != service:
            continue
        try:
            at = datetime.fromisoformat(matched[1])
        except ValueError:
            continue
        if at.tzinfo is not None:
            exits.append(at)
    return exits


def _is_counted(incident: Incident) -> bool:
    return (
        incident.t0 is None
        and incident.outcome in (Outcome.HEALED, Outcome.FALSE_ALARM)
        and incident.holder.startswith((WATCH, "recover_node/sweep__"))
    )


def _describe_loop(incidents: Sequence[Incident], now: datetime) -> str | None:
    """Rule 1. False alarms alone are covered by a rule of `pages`."""
    late = [one for one in incidents if now - one.opened_at < LOOP]
    healed = [one for one in late if one.outcome is Outcome.HEALED]
    if len(late) < LOOP_INCIDENTS or not healed:
        return None
    return f"it failed {len(late)} times within the hour, and was recovered {len(healed)} times"


def _describe_exits(times: Sequence[datetime], injected: int) -> str | None:
    """Rule 2."""
    count = len(times) - injected
    return f"its service exited {count} times within the hour" if count >= LOOP_EXITS else None


def _describe_same_failure(incidents: Sequence[Incident]) -> str | None:
    """Rule 3."""
    verdicts = Counter(
        verdict
        for one in incidents
        if one.outcome is Outcome.HEALED and (verdict := _first_verdict(one)) is not None
    )
    for verdict, count in verdicts.most_common(1):
        if count >= DAY_INCIDENTS:
            return f"it failed in the same way ({verdict}) {count} times within a day, and was recovered each time"
    return None


def _first_verdict(incident: Incident) -> str | None:
    return next((str(entry.data["verdict"]) for entry in incident.entries if "verdict" in entry.data), None)


def _pattern_page(node: str, pattern: str, incidents: Sequence[Incident], now: datetime) -> Page:
    last = max(incidents, key=lambda one: one.opened_at, default=None)
    where = f"See `make incident ID={last.id}`" if last else f"See the log of {node}'s init"
    return Page(
        f"page/pattern/{node}/{int(now.timestamp() // REMIND.total_seconds())}",
        f"{node} needs a person: it fails again and again",
        f"{node}: {pattern}. A recovery does not remove the cause. {where}, and {watch_dag_id(node)} in Airflow.",
    )

"""The runbook of each alert, and the link that every page contains.

The runbooks are the files of ``docs/runbooks/``. A unit test fails when an alert has no runbook or a runbook has
no alert.
"""

from __future__ import annotations

from collections.abc import Mapping

from kintsugi.core.connections import extras, read_connection
from kintsugi.notify.channels import CONNECTION

DIRECTORY = "docs/runbooks"
INDEX = "README"

RUNBOOKS: Mapping[str, str] = {
    "page/backup/": "backup-overdue",
    "page/control-plane/": "control-plane-failing",
    "page/failed/": "repair-failed",
    "page/intake/eod/": "eod-file-unusable",
    "page/intake/files/": "trade-file-unusable",
    "page/intake/missing/": "file-missing",
    "page/intake/retried/": "file-unreadable",
    "page/intake/unseen/": "bucket-unreachable",
    "page/intake/waiting/": "intake-stalled",
    "page/lost-open/": "messages-not-replayed",
    "page/lost/": "messages-deleted",
    "page/overdue/": "repair-overdue",
    "page/overdue/deploy_release/": "rollout-overdue",
    "page/pattern/": "node-fails-repeatedly",
    "page/refused/": "repair-refused",
    "page/store/": "store-unavailable",
    "page/stream/behind/": "stream-falling-behind",
    "page/stream/still/": "stream-stalled",
    "page/stuck/": "repair-stuck",
    "page/unaccounted/": "trades-missing",
    "page/unfounded/": "node-false-alarms",
    "page/unwatched/": "watch-missing",
    "page/waiting/": "node-unreachable",
    "heartbeat": "heartbeat-lost",
    "honeycomb/node_down": "honeycomb-node-down",
    "honeycomb/repaired_in_time": "honeycomb-repair-slo",
    "honeycomb/silent": "honeycomb-silent",
    "honeycomb/stale": "honeycomb-trades-stale",
}
"""Runbook by alert. An alert is the prefix of a page's key in the outbox, or it is raised outside: by the heartbeat
service, or by the resource of this name in ``terraform/honeycomb``."""

HEARTBEAT = "heartbeat"


def runbook_link(alert: str) -> str:
    """The runbook of ``alert``: a path in the repository, or a URL.

    ``alert``: a page's key or a key of RUNBOOKS. The longest matching prefix decides; an unknown alert gets the index.
    The connection ``kintsugi_apprise`` can define where the runbooks are published:
    ``"extra": {"runbooks": "https://…/docs/runbooks"}``. Raises KintsugiError when that connection is not JSON.
    """
    alerts = [key for key in RUNBOOKS if alert.startswith(key)]
    name = RUNBOOKS[max(alerts, key=len)] if alerts else INDEX
    base = extras(read_connection(CONNECTION) or {}).get("runbooks") or DIRECTORY
    return f"{str(base).rstrip('/')}/{name}.md"

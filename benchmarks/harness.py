"""What every series of faults on the fleet needs: a budget, the steady state, the journal on screen, a report."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.chaos.experiment import check_steady_state
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.incident import Incident
from kintsugi.core.settings import Settings
from kintsugi.db.store import StoreUnavailable
from kintsugi.operations.context import Context
from kintsugi.recovery.guard_evaluation import LIMITS

if TYPE_CHECKING:
    from rich.console import Console

STEADY_DEADLINE_S = 300.0
GENEROUS_FOR = timedelta(hours=3)


def describe_machine() -> str:
    """Describe this machine for a report."""
    return f"{os.cpu_count()} cores, {platform.machine()}"


def load_report(path: Path) -> dict[str, Any]:
    """Return the existing report; empty when there is none that can be read."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return document


def report_path(settings: Settings, command: str, *, old_command: str) -> Path:
    """Return the report of ``command``. One under the command's old name is renamed, so that a run continues."""
    path = settings.repository / "build" / f"{command}.json"
    old = path.with_name(f"{old_command}.json")
    if old.exists() and not path.exists():
        old.rename(path)
    return path


def write_report(path: Path, document: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Replace the report; a killed run leaves the old one or the new one complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document, indent=2) + "\n")
    fresh.replace(path)


def make_console() -> Console:
    """Return the console of a run; wide enough for its tables also without a terminal."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)


def await_steady_state(context: Context, deadline_s: float = STEADY_DEADLINE_S) -> None:
    """Wait until every node answers and no incident is open; raises StepFailed with what is missing."""
    until = time.monotonic() + deadline_s
    while True:
        try:
            check_steady_state(context)
        except GuardRefused as refusal:
            if time.monotonic() > until:
                raise StepFailed(f"no steady state after {deadline_s:.0f} s: {refusal}") from refusal
            time.sleep(1)
        else:
            return


@contextmanager
def raised_repair_budget(context: Context) -> Iterator[None]:
    """Raise the repair budget for a whole series; it ends with the block, or hours later if the block is killed."""
    until = datetime.now(UTC) + GENEROUS_FOR
    budget = {"repairs_per_node_and_hour": 1000, "repairs_per_hour": 1000, "until": until.isoformat()}
    before = context.store.read_desired(LIMITS)
    context.store.set_desired(LIMITS, budget)
    try:
        yield
    finally:
        context.store.set_desired(LIMITS, before.value if before else {})


def incidents_since(context: Context, t0: datetime) -> list[Incident]:
    """Return all incidents that began after the fault, oldest first."""
    found = [one for one in context.store.read_incidents(40) if one.detected_at >= t0 - timedelta(seconds=1)]
    return sorted(found, key=lambda one: one.detected_at)


def pages_since(context: Context, since: datetime) -> dict[str, str]:
    """Return title and text of every page since then (UTC), by its key; none before the watchdog ever ran."""
    with context.store.transaction() as connection:
        known = connection.execute("SELECT to_regclass('outbox') AS name").fetchone()
        if known is None or known["name"] is None:
            return {}
        rows = connection.execute(
            "SELECT key, body FROM outbox WHERE kind = 'page' AND created_at >= %s", (since,)
        ).fetchall()
    return {row["key"]: f"{row['body'].get('title', '')}: {row['body'].get('text', '')}" for row in rows}


@contextmanager
def tail_journal(context: Context, t0: datetime, console: Console) -> Iterator[None]:
    """Print the incidents' journals as they grow, while the block runs."""
    stop = threading.Event()
    shown: dict[str, int] = {}

    def print_until_stopped() -> None:
        while not stop.wait(1.0):
            print_new_entries()

    def print_new_entries() -> None:
        try:
            incidents = incidents_since(context, t0)
        except StoreUnavailable:
            return  # the control plane may be what was killed; the next look tells all the same
        for incident in incidents:
            for entry in incident.entries[shown.get(incident.id, 0) :]:
                if not entry.data.get("finding") and entry.data.get("mark") in (None, "failed"):
                    passed = (entry.at - t0).total_seconds()
                    console.print(
                        f"  [dim]{passed:6.1f} s {incident.node:14}[/] [cyan]{entry.step:9}[/] {entry.message}"
                    )
            shown[incident.id] = len(incident.entries)

    thread = threading.Thread(target=print_until_stopped, name="journal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        print_new_entries()

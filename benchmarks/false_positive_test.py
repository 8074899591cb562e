"""``make false-positive-test``: pause nodes of a healthy fleet under load; a recovery that starts is a mistake.

Every 20 s a node is paused for up to 5 s, while 1000 trades a second come in. False alarms that end without an action
are counted and allowed; a recovery isn't.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.demo import live_feed
from benchmarks.harness import await_steady_state, describe_machine, make_console, report_path, write_report
from kintsugi.chaos import janitor, switch
from kintsugi.core.fleet import Fleet
from kintsugi.core.incident import Incident
from kintsugi.core.settings import Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report

if TYPE_CHECKING:
    from rich.console import Console

MINUTES = 60.0
EVERY_S = 20.0
PAUSES_S = (0.5, 5.0)
FEED_ROWS = 5000
FEED_PERIOD_S = 5.0
RECONCILE_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Pause:
    """A node is paused for ``seconds``, ``at_s`` seconds after the beginning."""

    at_s: float
    node: str
    seconds: float


def plan_pauses(fleet: Fleet, seed: int) -> Iterator[Pause]:
    """Yield an endless schedule: every EVERY_S a random node, for a random time. The same seed gives the same."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    names = list(fleet.nodes)
    for number in count(1):
        yield Pause(number * EVERY_S, chance.choice(names), round(chance.uniform(*PAUSES_S), 1))


def select_repairs(incidents: Sequence[Incident]) -> list[Incident]:
    """Return the incidents in which a node was acted upon."""
    return [one for one in incidents if one.acted]


def run_false_positive_test(
    settings: Settings, *, minutes: float = MINUTES, seed: int | None = None, report: Path | None = None
) -> int:
    """Run the test and the reconciliation; 0 when no recovery acted and nothing is lost or doubled."""
    console = make_console()
    path = report or report_path(settings, "false-positive-test", old_command="calm")
    seed = int(datetime.now(UTC).timestamp()) if seed is None else seed
    context = Context.from_environment()
    unpause_dags(context)
    await_steady_state(context)
    console.print(f"seed {seed}: {minutes:.0f} minutes, {FEED_ROWS / FEED_PERIOD_S:.0f} trades a second")
    began = datetime.now(UTC)
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "seed": seed,
        "began": began.isoformat(),
        "pauses": [],
    }
    with live_feed(context, rows=FEED_ROWS, period_s=FEED_PERIOD_S):
        for pause in inject_pauses(context, seed, minutes * 60):
            document["pauses"].append(asdict(pause))
            document |= progress_document(context, began)
            write_report(path, document)
            print_outcome(console, document)
    document |= progress_document(context, began)
    document["account"] = counted = summarize_report(
        reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S)
    )
    write_report(path, document)
    print_outcome(console, document)
    for story in document["repairs"]:
        console.print(f"[red]{story['id']} was repaired: {', '.join(story['attempts'])}; {story['reason']}")
    console.print(f"{format_summary(counted)}; see {path}")
    return 1 if document["repairs"] or has_faults(counted) else 0


def inject_pauses(context: Context, seed: int, seconds: float) -> Iterator[Pause]:
    """Inject each pause at its time and undo it when it is over; ends after ``seconds``.

    The janitor resumes the node if this process is killed. Raises ChaosStopped.
    """
    began, platform = time.monotonic(), context.platform()
    longest_s = PAUSES_S[1] + 30.0
    for pause in plan_pauses(context.fleet, seed):
        if pause.at_s + pause.seconds > seconds:
            break
        time.sleep(max(0.0, began + pause.at_s - time.monotonic()))
        switch.check_not_stopped(context.store)
        record = janitor.register_fault(context.settings, "paused", (pause.node,), longest_s)
        try:
            platform.suspend(pause.node)
            time.sleep(pause.seconds)
        finally:
            platform.resume(pause.node)
            janitor.forget_fault(context.settings, record)
        yield pause
    time.sleep(max(0.0, began + seconds - time.monotonic()))


def progress_document(context: Context, began: datetime) -> dict[str, Any]:
    """Return the time passed, the incidents since the beginning, and those in which a node was acted upon."""
    incidents = [one for one in context.store.read_incidents(1000) if one.detected_at >= began]
    return {
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 1),
        "incidents": len(incidents),
        "repairs": [one.to_json() for one in select_repairs(incidents)],
    }


def print_outcome(console: Console, document: dict[str, Any]) -> None:
    """Print a line of progress."""
    made = document["pauses"]
    last = f", last {made[-1]['node']} for {made[-1]['seconds']} s" if made else ""
    console.print(
        f"  {document['minutes']:5.1f} min: {len(made)} pauses{last}; {document['incidents']} incidents, "
        f"{len(document['repairs'])} repairs"
    )

"""``make scale-fleet``: add and remove nodes as the fleet file declares, by a run of ``scale_fleet``; follow it."""

from __future__ import annotations

from collections.abc import Callable

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.connections import store_dsn
from kintsugi.core.dag_ids import SCALE_DAG
from kintsugi.core.settings import Settings
from kintsugi.db.store import Store
from kintsugi.installation.node_replacement import Say, run_to_the_end
from kintsugi.operations.context import Context
from kintsugi.scaling.progress import read_progress
from kintsugi.scaling.state import read_plan


def scale_fleet(settings: Settings, *, rate_mib: int, dry_run: bool, say: Say = print) -> str:
    """Change the fleet by a run of the DAG, or follow a run of the same request; returns how it ended.

    Raises FleetError for an invalid fleet file, GuardRefused with the reasons for a refusal, StepFailed for a failure.
    The run goes on if this process ends.
    """
    context = Context(settings=settings, fleet=settings.fleet, store=Store(store_dsn(settings)))
    say(f"plan: {read_plan(context)}")
    conf = {"rate_mib": rate_mib, "dry_run": dry_run}
    return run_to_the_end(
        ControlPlane(settings).airflow, SCALE_DAG, conf, say, _progress_printer(context, say)
    )


def _progress_printer(context: Context, say: Say) -> Callable[[], None]:
    """Return a function that prints the entries of the progress that are new since its last call."""
    last = _newest_time(context)

    def look() -> None:
        nonlocal last
        progress = read_progress(context.store)
        for entry in progress["entries"] if progress else ():
            if entry["at"] > last:
                last = entry["at"]
                say(f"  {entry['message']}")

    return look


def _newest_time(context: Context) -> str:
    progress = read_progress(context.store)
    return max((entry["at"] for entry in progress["entries"]), default="") if progress else ""

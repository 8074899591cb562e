"""Manual mode: a person works on a node, and the recovery does not touch it until the person is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import watch_dag_id
from kintsugi.core.processes import wait_until
from kintsugi.infra.airflow_client import Airflow
from kintsugi.operations.context import Context

LIMIT_S = 1200.0  # for one manual start, with everything that belongs to it
WATCH_DEADLINE_S = 120.0


@contextmanager
def manual_mode(context: Context, airflow: Airflow, name: str, *, holder: str, reason: str) -> Iterator[None]:
    """Keep the recovery away from the node while the block runs; no incident is opened and no question asked.

    1. The node's watch is paused. Its trigger still fires, but no task of the run starts, so it takes no processor
       time from the manual work.
    2. The lease is held. When the watch continues, its run ends at `confirm` (LeaseHeld: skipped), before an incident
       is opened or a guard evaluated. A `recover_node` that a person starts meanwhile fails there and names the
       holder. The lease is released when the watch observes the node again. From then on the node is recovered as
       usual, also after a failed manual start.
    3. A maintenance flag tells the pages and the dead man's switch that a person is at work. The guards don't see it.

    Lease and flag expire after LIMIT_S. A killed run also leaves the watch paused, which the dead man's switch then
    reports. `lift` ends all three.
    """
    watch, until = watch_dag_id(name), datetime.now(UTC) + timedelta(seconds=LIMIT_S)
    lease = context.store.acquire_lease(name, holder, LIMIT_S, fresh_token=True)
    try:
        context.store.set_maintenance(name, reason=reason, user=holder, until=until)
        airflow.pause(watch)
        try:
            yield
        finally:
            airflow.unpause(watch)
            await_watched(airflow, name)
    finally:
        context.store.clear_maintenance(name, user=holder)
        context.store.release_lease(name, lease.token)


def end_manual_mode(context: Context, holder: str) -> None:
    """Release the leases and maintenance flags that a killed run of ``holder`` left. Unpause the watches first."""
    for name in context.fleet.nodes:
        context.store.give_back(name, holder)
        context.store.clear_maintenance(name, user=holder)


def is_watched(airflow: Airflow, name: str) -> bool:
    """Whether the node's watch waits at its sensor, with no finding under way. False if Airflow doesn't answer."""
    watch = watch_dag_id(name)
    try:
        run = airflow.youngest_run(watch)
        tasks = airflow.tasks(watch, run["dag_run_id"]) if run and run["state"] == "running" else []
    except StepFailed:
        return False
    return any(task.task_id == "health" and task.state == "deferred" for task in tasks)


def await_watched(airflow: Airflow, name: str) -> None:
    """Wait until the node is watched; raises StepFailed after WATCH_DEADLINE_S."""
    if not wait_until(lambda: is_watched(airflow, name), WATCH_DEADLINE_S, pause=0.5):
        raise StepFailed(
            f"{name} is still not watched after {WATCH_DEADLINE_S:.0f} s; look at {watch_dag_id(name)} in Airflow"
        )

"""A node in a person's hands: the recovery keeps off it for a while, and watches it again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import watch_of
from kintsugi.core.processes import wait_until
from kintsugi.infra.airflow_client import Airflow
from kintsugi.operations.context import Context

LIMIT_S = 1200.0  # for one hand start with all that belongs to it
WATCH_DEADLINE_S = 120.0


@contextmanager
def hands_on(context: Context, airflow: Airflow, name: str, *, holder: str, reason: str) -> Iterator[None]:
    """Keep the recovery's hands off the node while the block runs; no incident and no question comes of it.

    1. The node's watch is paused: its trigger still fires, but no task of the run starts, so nothing of it runs beside
       the hand and takes processors from it.
    2. The lease is held. When the watch goes on, its run ends at `confirm` (LeaseHeld: skipped), before an incident is
       opened or a guard asked; so would a `recover_node` that somebody starts meanwhile. It is given back when the
       watch watches again: from then on the node is healed by whoever finds it sick, also after a failed start by hand.
    3. A maintenance flag tells the pages and the dead man's switch that somebody is at work. No guard gets to see it.

    Lease and flag end by themselves after LIMIT_S. A killed run leaves the watch paused besides, which the dead man's
    switch tells then; `lift` ends all three.
    """
    watch, until = watch_of(name), datetime.now(UTC) + timedelta(seconds=LIMIT_S)
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
        context.store.release(name, lease.token)


def lift(context: Context, holder: str) -> None:
    """Take back what a killed run of ``holder`` left: leases and maintenance flags. Unpause the watches first."""
    for name in context.fleet.nodes:
        context.store.give_back(name, holder)
        context.store.clear_maintenance(name, user=holder)


def is_watched(airflow: Airflow, name: str) -> bool:
    """Whether the node's watch waits at its sensor: no finding is on its way. False when Airflow doesn't say."""
    watch = watch_of(name)
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
            f"nobody watches {name} after {WATCH_DEADLINE_S:.0f} s; look at {watch_of(name)} in Airflow"
        )

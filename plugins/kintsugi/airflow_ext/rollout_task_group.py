"""The roll-out as a graph: a group a node, one after another, unrolled from the fleet file.

``prepare`` → ``plan`` → (``apply`` → ``prove``) for each node in turn → ``hold``; ``go_back`` when any of them failed;
``finish`` always. See ``kintsugi.releases.rollout_steps`` for what each does.

A bad probe is final: its task fails without a retry. A task that was killed, or that lost the database, runs again.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import TaskGroup, TriggerRule, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from kintsugi.airflow_ext.task_retries import RETRY, mark_final
from kintsugi.core.fleet import Fleet
from kintsugi.operations.context import Context
from kintsugi.recovery.planned_stop import stop_reasons
from kintsugi.releases import rollout_steps
from kintsugi.releases.rollout import update_order


@task(**RETRY)
def prepare(release: str, again: str, **context: Any) -> str:
    """Build or find the release and open the deployment; returns the deployment's id."""
    with mark_final():
        return rollout_steps.prepare_rollout(
            Context.from_environment(), context["dag_run"].run_id, release.strip(), again=again == "True"
        ).id


@task.branch(**RETRY)
def plan(first: str, dry_run: str, **context: Any) -> str:
    """Render everything and compare it; goes on with the first node, or with the end of a dry run."""
    with mark_final():
        rollout_steps.plan_rollout(Context.from_environment(), context["dag_run"].run_id)
    return "finish" if dry_run == "True" else first


@task(**RETRY)
def apply(node: str, **context: Any) -> str:
    """Configure and restart the node, or note that the release changes nothing on it."""
    with mark_final():
        return rollout_steps.update_node(
            Context.from_environment(), context["dag_run"].run_id, node, stop_reasons
        )


@task(**RETRY)
def prove(node: str, **context: Any) -> str:
    """Wait until the node is ready, let it verify itself, and see that it stays healthy for a moment."""
    with mark_final():
        return rollout_steps.verify_update(
            Context.from_environment(), context["dag_run"].run_id, node, stop_reasons
        )


@task(**RETRY)
def hold(seconds: str, **context: Any) -> str:
    """See the whole fleet healthy for the hold time, and send a synthetic trade; then the release is known-good."""
    with mark_final():
        return rollout_steps.bake_release(
            Context.from_environment(), context["dag_run"].run_id, float(seconds)
        )


@task(trigger_rule=TriggerRule.ONE_FAILED, **RETRY)
def go_back(**context: Any) -> str:
    """Roll every updated node back to the last known-good release, the failed one first."""
    if context["ti"].xcom_pull(task_ids="prepare") is None:
        raise AirflowSkipException("no deployment was opened, so no node was updated")
    with mark_final():
        return rollout_steps.roll_back(Context.from_environment(), context["dag_run"].run_id, stop_reasons)


@task(trigger_rule=TriggerRule.ALL_DONE, **RETRY | {"retries": 5})
def finish(dry_run: str, **context: Any) -> str:
    """End the deployment and write its record; fails the run unless the release is known-good now."""
    if context["ti"].xcom_pull(task_ids="prepare") is None:
        raise AirflowFailException("no deployment was opened; the reason is in the log of prepare")
    story = rollout_steps.finish_rollout(
        Context.from_environment(), context["dag_run"].run_id, dry_run=dry_run == "True"
    )
    if not story.well:
        raise AirflowFailException(story.text)
    return story.text


def group_of(node: str) -> str:
    """Return the id of a node's task group, without dashes, as references between tasks need it."""
    return node.replace("-", "_")


def roll_out(fleet: Fleet, *, release: str, hold_s: str, dry_run: str, again: str) -> None:
    """Build the graph for ``fleet``; the other arguments may be templates."""
    nodes = [node.name for node in update_order(fleet)]
    bake, back, end = hold(hold_s), go_back(), finish(dry_run)
    planned = plan(first=f"{group_of(nodes[0])}.apply", dry_run=dry_run)
    prepare(release, again) >> planned >> end
    previous: Any = planned
    steps = []
    for name in nodes:
        with TaskGroup(group_of(name), tooltip=f"Roll out to {name}"):
            applied, proven = apply(name), prove(name)
            previous >> applied >> proven
        steps += [applied, proven]
        previous = proven
    previous >> bake
    [*steps, bake] >> back
    [bake, back] >> end

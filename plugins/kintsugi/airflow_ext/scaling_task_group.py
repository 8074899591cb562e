"""The change of the fleet's size as a graph: one role after another, the least risky first.

``check`` → ``begin`` → (``add`` → ``spread`` → ``remove`` → ``clean_up``) of each role → ``settle`` → ``finish``.
See ``kintsugi.scaling.steps`` for what each does.

A refusal before anything is touched is no failure: it skips what follows, and the run ends green with the reasons. A
task that was killed, or that lost the database, runs again. After any other failure `finish` ends the run, and the next
run goes on.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup, TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowFailException

from kintsugi.airflow_ext.task_retries import RETRY, mark_final
from kintsugi.core.dag_ids import holder_of
from kintsugi.core.fleet import Role
from kintsugi.core.users import actor_of_run
from kintsugi.operations.context import Context
from kintsugi.scaling import permission, steps
from kintsugi.scaling.plan import SCALED_ROLES

LONG: dict[str, Any] = RETRY | {"execution_timeout": timedelta(hours=7)}
REASONS = "reasons"  # the XCom key of the reasons against the change, as `check` found them
RESULT = "result"  # the XCom key of how it ended: state and text
MIB = 2**20


@task.branch(**RETRY)
def check(dry_run: str, **context: Any) -> str:
    """Show the plan and ask every guard; goes on with ``begin``, or with the end of a dry run or of a refusal."""
    with mark_final():
        plan, reasons = steps.check_scaling(Context.from_environment(), holder_of(context["dag_run"]))
    context["ti"].xcom_push(key=REASONS, value=reasons)
    print(f"plan: {plan}")
    print("\n".join(["refused:", *reasons] if reasons else ["nothing refuses it"]))
    return "finish" if reasons or dry_run == "True" else "begin"


@task(**RETRY)
def begin(**context: Any) -> str:
    """Take the lease of the fleet and set the maintenance flags; returns the plan."""
    with mark_final():
        return steps.begin_scaling(
            Context.from_environment(), holder_of(context["dag_run"]), actor_of_run(context["dag_run"])
        )


@task(**LONG)
def add(role: str, **context: Any) -> str:
    """Add each new node of the role."""
    with mark_final():
        return steps.add_nodes(Context.from_environment(), holder_of(context["dag_run"]), Role(role))


@task(**LONG)
def spread(rate_mib: str, **context: Any) -> str:
    """Move Kafka's replicas to the brokers that came, and from those that leave."""
    with mark_final():
        return steps.spread_partitions(
            Context.from_environment(), holder_of(context["dag_run"]), int(rate_mib) * MIB
        )


@task(**LONG)
def remove(role: str, **context: Any) -> str:
    """Remove each node of the role that is no longer declared."""
    with mark_final():
        return steps.remove_nodes(Context.from_environment(), holder_of(context["dag_run"]), Role(role))


@task(**LONG)
def clean_up(**context: Any) -> str:
    """Let each Cassandra node drop the rows that moved to a new one."""
    with mark_final():
        return steps.clean_up(Context.from_environment(), holder_of(context["dag_run"]))


@task(**LONG)
def settle(**context: Any) -> str:
    """Write the members' files, and prove the pipeline."""
    with mark_final():
        return steps.settle(Context.from_environment(), holder_of(context["dag_run"]))


@task(trigger_rule=TriggerRule.ALL_DONE, **RETRY | {"retries": 5})
def finish(dry_run: str, **context: Any) -> str:
    """End flags and lease in every outcome; fails the run unless nothing is left to do or nothing was touched."""
    ti = context["ti"]
    reasons = ti.xcom_pull(task_ids="check", key=REASONS)
    if reasons is None:
        raise AirflowFailException("the task check failed, so nothing was touched; see its log")
    result = steps.finish_scaling(
        Context.from_environment(),
        holder_of(context["dag_run"]),
        dry_run=dry_run == "True",
        refusal=permission.format_refusal(reasons) if reasons else None,
    )
    ti.xcom_push(key=RESULT, value={"state": result.state.value, "text": result.text})
    if result.state is steps.ScalingState.FAILED:
        raise AirflowFailException(result.text)
    return result.text


def build_scaling(*, dry_run: str, rate_mib: str) -> None:
    """Build the tasks; the arguments may be templates."""
    checked, begun, end = check(dry_run), begin(), finish(dry_run)
    checked >> [begun, end]
    parts: list[Any] = [begun]
    for role in SCALED_ROLES:
        with TaskGroup(role.value, tooltip=f"Add and remove nodes of {role.value}"):
            parts.append(add(role.value))
            if role is Role.KAFKA:
                parts.append(spread(rate_mib))
            parts.append(remove(role.value))
            if role is Role.CASSANDRA:
                parts.append(clean_up())
    chain(*parts, settle(), end)

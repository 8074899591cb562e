"""The replacement of a node on purpose as a graph: its guards and its drain, then the group of a recovery.

``check`` → (``ask_a_human``) → ``drain`` → ``recovery`` (Terraform, then Ansible) → ``finish``.
See ``kintsugi.replacement.steps`` for what each does.

A refusal is no failure: it skips what follows, and the run ends green with the reasons in the result of ``finish``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from kintsugi.airflow_ext.operators.approval import APPROVED_BY, RepairApproval
from kintsugi.airflow_ext.recovery_task_group import APPROVAL_WAIT, JOIN, RETRY, build_recovery
from kintsugi.core.dag_ids import holder_of
from kintsugi.core.errors import GuardRefused
from kintsugi.core.users import actor_of_run
from kintsugi.operations.context import Context
from kintsugi.recovery.guard_model import APPROVE, DECLINE
from kintsugi.replacement import permission, steps

REASONS = "reasons"  # the XCom key of the reasons against the replacement, as `check` found them
ASKS = "asks"  # the XCom key by which `check` marks that a person is asked
REFUSED = "refused"  # the XCom key of the refusal by `drain`
RESULT = "result"  # the XCom key of how it ended: state and text


@task.branch(**RETRY)
def check(node: str, dry_run: str, **context: Any) -> str:
    """Ask every guard; goes on with the drain, with a question if the node is protected, or with the end."""
    own_context = Context.from_environment()
    reasons = steps.check_replacement(own_context, node, holder_of(context["dag_run"]))
    real = dry_run != "True"
    asks = real and not reasons and own_context.fleet.node(node).protected
    context["ti"].xcom_push(key=ASKS, value=asks)
    context["ti"].xcom_push(key=REASONS, value=reasons)
    if real and reasons:
        return "finish"
    return "ask_a_human" if asks else "drain"


@task(trigger_rule=JOIN, **RETRY)
def drain(node: str, what: str, dry_run: str, **context: Any) -> str:
    """Ask every guard again, drain the node and stop its service; a refusal skips what follows."""
    if dry_run == "True":
        return f"dry run: {node} is not drained"
    try:
        return steps.drain_node(
            Context.from_environment(),
            node,
            holder_of(context["dag_run"]),
            started_by=actor_of_run(context["dag_run"]),
            approved_by=context["ti"].xcom_pull(task_ids="ask_a_human", key=APPROVED_BY),
            what=what,
        )
    except GuardRefused as refused:
        context["ti"].xcom_push(key=REFUSED, value=str(refused))
        raise AirflowSkipException(str(refused)) from refused


@task(trigger_rule=TriggerRule.ALL_DONE, **RETRY | {"retries": 5})
def finish(node: str, dry_run: str, **context: Any) -> str:
    """End maintenance and lease in every outcome; fails the run unless the node was replaced or nothing was touched."""
    ti = context["ti"]
    reasons = ti.xcom_pull(task_ids="check", key=REASONS)
    if reasons is None:
        raise AirflowFailException("the task check failed, so nothing was touched; see its log")
    result = steps.finish_replacement(
        Context.from_environment(),
        node,
        holder_of(context["dag_run"]),
        dry_run=dry_run == "True",
        refusal=_refusal(node, reasons, ti),
    )
    ti.xcom_push(key=RESULT, value={"state": result.state.value, "text": result.text})
    if result.state is steps.ReplacementState.FAILED:
        raise AirflowFailException(result.text)
    return result.text


def _refusal(node: str, reasons: list[str], ti: Any) -> str | None:
    """Return why the run ended before the node was stopped; None if it did not."""
    if reasons:
        return permission.format_refusal(node, reasons)
    refused: str | None = ti.xcom_pull(task_ids="drain", key=REFUSED)
    asked = ti.xcom_pull(task_ids="check", key=ASKS)
    if refused is None and asked and not ti.xcom_pull(task_ids="ask_a_human", key=APPROVED_BY):
        return permission.format_refusal(node, [f"{node} is protected, and nobody approved its replacement."])
    return refused


def request_approval() -> Any:
    """Return the task in which the replacement of a protected node waits for a person, before anything is touched."""
    return RepairApproval(
        task_id="ask_a_human",
        subject="A protected node is to be replaced on purpose. Replace it?",
        body=(
            "Node **{{ params.node }}** is protected: it is destroyed only if a person approves. It serves now, and "
            "nothing was touched yet.\n\n*Approve* drains and replaces it, if every other guard still allows that. "
            "*Decline* ends this run. Without an answer it is declined after 30 minutes."
        ),
        options=[APPROVE, DECLINE],
        options_mapping={APPROVE: "drain", DECLINE: "finish"},
        defaults=DECLINE,
        response_timeout=APPROVAL_WAIT,
        retries=2,  # as in `recovery_task_group.request_approval`
        retry_delay=timedelta(seconds=2),
    )


def build_replacement(*, node: str, action: str, what: str, dry_run: str) -> None:
    """Build the tasks; the arguments may be templates. ``action``: "rebuild_node" or "rebuild"; ``what``: in words."""
    checked, asked = check(node, dry_run), request_approval()
    drained, end = drain(node, what, dry_run), finish(node, dry_run)
    checked >> [asked, drained, end]
    asked >> [drained, end]
    chain(drained, build_recovery(node=node, action=action, dry_run=dry_run), end)

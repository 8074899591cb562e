"""The recovery of a node: one TaskGroup, used by every ``watch_<node>`` DAG and by ``recover_node``.

The algorithm, from top to bottom:

1. ``confirm``       a second opinion: probe again, ask the peers; takes the lease, opens the incident. Then the
                     guards: repair budget, circuit breaker, quorum, last copy, maintenance; a refusal asks a person.
2. ``archive_logs``  copies the node's logs to S3 under the incident, beside the repair: the log collector has them
                     already, so nothing is lost.
3. ``decide``        restart, rebuild, roll back, or only show the plan (dry run).
4. ``plan``          ``terraform plan -replace`` of this node alone; the plan is checked.
5. ``provision``     the old node is fenced, so that it can't come back and write; then exactly that plan is applied. A
                     node that answers again is let back in: nothing is done to it, and step 7 follows.
6. ``configure``     Ansible, with artifacts of the cache.
7. ``rejoin``        by role: first ready (the node serves again), then consistent (its data is complete).
8. ``verify``, ``canary``   the node proves that it works; then a synthetic trade goes from S3 to Cassandra.
9. ``record``        always: closes the incident, writes its record to S3, fails the run unless the node is recovered.

Airflow's graph shows two groups: *Terraform* (``plan``, ``provision``, ``show_plan``) and *Ansible* (``configure``,
``restart``). They change the picture only: the id of each task stays ``recovery.<step>``, because runbooks, links
and the records of earlier runs refer to it.

The journal has more steps than this group has tasks. From one task to the next it takes 2 s and more, so several steps
share a task (docs/decisions/0085).

A repair that fails closes its attempt and fails the run. The next run of the watch finds the node still failed and
continues the same incident. ``decide`` then escalates beyond what the journal has as tried.

Tasks pass on only a reference (incident, node, holder of the lease). Observations and decisions are in the journal, so
any task can be killed and run again. Every step takes a new fencing token when it starts. A step that counts as dead
and still runs is refused at its next act.

The tasks pull the reference themselves. As an argument it would make ``confirm`` a direct upstream of every task, and a
join with ``none_failed_min_one_success`` would then run although its whole path was skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import TaskGroup, TriggerRule, chain, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from kintsugi.airflow_ext.operators.approval import RepairApproval
from kintsugi.airflow_ext.operators.incident_link import IncidentLink
from kintsugi.airflow_ext.triggers.node_health_listener import finding_of
from kintsugi.core.dag_ids import holder_of, is_requested_recovery
from kintsugi.core.errors import GuardRefused, LeaseHeld, NodeReturned, PermanentStepError
from kintsugi.operations.approval_answers import LOOK_AGAIN
from kintsugi.recovery.guard_model import APPROVE, DECLINE

if TYPE_CHECKING:
    from kintsugi.operations.context import Context, RecoveryRef

GROUP = "recovery"
APPROVAL_WAIT = timedelta(minutes=30)
# Steps are safe to run twice, so a killed worker costs a retry and not the repair.
RETRY: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=2), "pool": "recovery"}
WAITING = (
    "rejoin"  # a pool of its own: the wait for a node may take hours, and must not use a recovery's slots
)
BEGAN = "began"  # the XCom key by which confirm marks that this run repairs the node
CASE = "case"  # the XCom key of the case
# How long a person's request waits for the lease of another run. It holds a slot of the pool meanwhile.
LEASE_WAIT_S = 60.0
REJOIN_LIMIT = timedelta(hours=5)  # more than the limits of the steps in `actions.rejoin` together
JOIN = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS


def _own_context() -> Context:
    from kintsugi.operations.context import Context  # parse time: a task needs it, a DAG file doesn't

    return Context.from_environment()


def _pull_case(context: Any) -> RecoveryRef:
    from kintsugi.operations.context import RecoveryRef  # parse time

    return RecoveryRef.from_xcom(context["ti"].xcom_pull(task_ids=f"{GROUP}.confirm", key=CASE))


@contextmanager
def _act_on_case(context: Any, *, untouched: bool = False) -> Iterator[tuple[Context, RecoveryRef]]:
    """Yield context and reference of a task that acts, and handle its errors.

    ``untouched``: as in `step_failures.handle_control_plane_fault`.
    """
    from kintsugi.recovery.step_failures import handle_control_plane_fault  # parse time

    own_context, ref = _own_context(), _pull_case(context)
    with _no_retry(), handle_control_plane_fault(own_context, ref, untouched=untouched):
        yield own_context, ref


@contextmanager
def _no_retry() -> Iterator[None]:
    """Fail without a retry where a retry can't help: a permanent error, a refusal, a closed incident.

    Airflow's retries are for killed workers. A step that finds the node serving again is skipped: its attempt was
    withdrawn, and `rejoin` lets the node back in.
    """
    try:
        yield
    except NodeReturned as returned:
        raise AirflowSkipException(str(returned)) from returned
    except (PermanentStepError, GuardRefused) as failure:
        raise AirflowFailException(str(failure)) from failure


@task.branch(**RETRY)
def confirm(node: str, finding: Any, action: str, dry_run: str, **context: Any) -> list[str]:
    """Probe again, ask the peers and open the incident, or continue the open one; then ask the guards.

    Goes on, closes without action, or asks a person; the reason is in the journal. Both steps are one task, because it
    takes longer from one task to the next than either step.

    While another run holds the node's lease: the request of a person waits for LEASE_WAIT_S, then fails and names that
    run. Any other run is skipped, because the node is recovered already.
    """
    from kintsugi.recovery import assessment, guard_evaluation  # parse time

    run = context["dag_run"]
    by_person = is_requested_recovery(run)
    context["ti"].xcom_push(key=BEGAN, value=True)
    try:
        ref = assessment.confirm_finding(
            _own_context(),
            node=node,
            holder=holder_of(run),
            finding=finding_of(finding),
            requested=action,
            dry_run=dry_run == "True",
            started_by=getattr(run, "triggering_user_name", None),
            lease_wait_s=LEASE_WAIT_S if by_person else 0.0,
        )
    except LeaseHeld as error:
        if by_person:
            raise AirflowFailException(
                f"nothing was done, and the guards were not asked: {error}; then trigger {run.dag_id} again"
            ) from error
        context["ti"].xcom_push(key=BEGAN, value=False)
        raise AirflowSkipException(str(error)) from error
    context["ti"].xcom_push(key=CASE, value=ref.to_xcom())
    path = guard_evaluation.evaluate_guards(_own_context(), ref)
    if "ask_a_human" in path:
        context["ti"].xcom_push(key="reasons", value=guard_evaluation.refusal_reasons(_own_context(), ref))
    return [f"{GROUP}.{name}" for name in path]


@task(**RETRY | {"pool": "default_pool"})  # beside the repair: it leaves the processors to its steps
def archive_logs(**context: Any) -> list[str]:
    """Copy the node's logs from the collector to S3; returns the keys."""
    from kintsugi.recovery import report  # parse time

    with _no_retry():
        return report.archive_logs(_own_context(), _pull_case(context))


@task.branch(trigger_rule=JOIN, **RETRY)
def decide(**context: Any) -> str:
    """Choose the path; an approval, if there was one, is written to the journal first."""
    from kintsugi.recovery import guard_evaluation  # parse time

    approved_by = context["ti"].xcom_pull(task_ids=f"{GROUP}.ask_a_human", key="approved_by")
    with _no_retry():
        return f"{GROUP}.{guard_evaluation.choose_path(_own_context(), _pull_case(context), approved_by)}"


@task(**RETRY)
def stand_down(**context: Any) -> str:
    """Close a false alarm without action."""
    from kintsugi.recovery import assessment  # parse time

    with _no_retry():
        return assessment.close_without_action(_own_context(), _pull_case(context))


@task(**RETRY)
def show_plan(**context: Any) -> str:
    """Show Terraform's plan in a dry run; changes nothing."""
    from kintsugi.recovery import actions  # parse time

    with _no_retry():
        return actions.show_plan(_own_context(), _pull_case(context))


@task(**RETRY)
def restart(**context: Any) -> None:
    """Start the service again on a node whose disk is intact."""
    from kintsugi.recovery import actions  # parse time

    with _act_on_case(context) as (own_context, ref):
        actions.restart_service(own_context, ref)


@task(**RETRY)
def plan(**context: Any) -> str:
    """Plan the replacement of this node alone and check the plan; returns the plan's path."""
    from kintsugi.recovery import actions  # parse time

    with _act_on_case(context, untouched=True) as (own_context, ref):
        return actions.plan_replacement(own_context, ref)


@task(**RETRY)
def provision(**context: Any) -> None:
    """Fence the old node, so that it can't come back and write, and apply exactly the checked plan.

    A stale plan is created and checked again.
    """
    from kintsugi.recovery import actions  # parse time

    with _act_on_case(context) as (own_context, ref):
        actions.fence_node(own_context, ref)
        actions.apply_plan(own_context, ref, context["ti"].xcom_pull(task_ids=f"{GROUP}.plan"))


@task(**RETRY)
def configure(**context: Any) -> None:
    """Let Ansible configure the new node for its role."""
    from kintsugi.recovery import actions  # parse time

    with _act_on_case(context) as (own_context, ref):
        actions.configure_node(own_context, ref)


@task(trigger_rule=JOIN, execution_timeout=REJOIN_LIMIT, **RETRY | {"pool": WAITING})
def rejoin(**context: Any) -> str:
    """Wait until the node serves again, then make its data consistent."""
    from kintsugi.recovery import actions  # parse time

    with _act_on_case(context) as (own_context, ref):
        return actions.rejoin_node(own_context, ref)


@task(**RETRY)
def verify(**context: Any) -> str:
    """Let the node prove that it works; returns a sentence."""
    from kintsugi.recovery import actions  # parse time

    with _act_on_case(context) as (own_context, ref):
        return actions.verify_recovery(own_context, ref)


@task(**RETRY)
def canary(**context: Any) -> str:
    """Send a synthetic trade through S3 and read it from Cassandra."""
    from kintsugi.recovery import actions  # parse time

    with _act_on_case(context) as (own_context, ref):
        return actions.verify_synthetic_trade(own_context, ref)


@task(trigger_rule=TriggerRule.ALL_DONE, **RETRY | {"retries": 5})
def record(**context: Any) -> str:
    """Close the incident and write its record; fails the run unless the node is recovered."""
    from kintsugi.recovery import report  # parse time

    ti = context["ti"]
    if ti.xcom_pull(task_ids=f"{GROUP}.confirm", key=CASE) is None:
        if ti.xcom_pull(task_ids=f"{GROUP}.confirm", key=BEGAN):
            raise AirflowFailException("the task confirm failed before it opened an incident; see its log")
        raise AirflowSkipException(
            "this run opened no incident: the node is healthy, or another run recovers it; see the log of confirm"
        )
    story = report.record_outcome(_own_context(), _pull_case(context))
    if not story.well:
        raise AirflowFailException(story.text)
    return story.text


def request_approval() -> Any:
    """Return the task in which a refused repair waits for a person, under "required actions", without a worker slot."""
    return RepairApproval(
        task_id="ask_a_human",
        subject="A guard refused a repair. Repair the node anyway?",
        body=(
            "{% set case = ti.xcom_pull(task_ids='recovery.confirm', key='case') %}"
            "Node **{{ case['node'] }}**, incident `{{ case['incident'] }}`. The guards refused the repair because:\n\n"
            "{% for reason in ti.xcom_pull(task_ids='recovery.confirm', key='reasons') or [] %}"
            "- {{ reason }}\n{% endfor %}"
            "\nThe whole journal: `make incident ID={{ case['incident'] }}`. What to do for each reason: "
            "docs/runbooks/repair-refused.md.\n\n"
            "*Approve* repairs the node although a guard refused. A node that still answers is never killed, even "
            "after an approval: stop its service first, then approve. *Look again* verifies the node. *Decline* ends "
            "this repair. The question is withdrawn when the node is ready again. Without an answer it is declined "
            "after 30 minutes."
        ),
        options=[APPROVE, DECLINE, LOOK_AGAIN],
        options_mapping={
            APPROVE: f"{GROUP}.decide",
            DECLINE: f"{GROUP}.record",
            LOOK_AGAIN: f"{GROUP}.rejoin",
        },
        defaults=DECLINE,
        response_timeout=APPROVAL_WAIT,
        # An answer within two seconds of the question can be lost: the scheduler takes the end of the asking process
        # for a failure of the resumed task (apache/airflow issue 72716). Then the question is asked again.
        retries=2,
        retry_delay=timedelta(seconds=2),
    )


def _tool_group(group_id: str, display_name: str, tooltip: str) -> TaskGroup:
    """Return a group that Airflow's graph draws around the steps of one tool. Their ids get no prefix (`_add_step`)."""
    return TaskGroup(group_id, group_display_name=display_name, tooltip=tooltip, prefix_group_id=False)


def _add_step(step: Any, command: str) -> Any:
    """Add a step to the group of its tool: its id is ``recovery.<step>``, and Airflow shows ``<step> (<command>)``."""
    name = step.function.__name__
    return step.override(task_id=f"{GROUP}.{name}", task_display_name=f"{name} ({command})")()


def build_recovery(
    *, node: str, finding: Any = None, action: str = "auto", dry_run: str = "False"
) -> TaskGroup:
    """Build the tasks for ``node``, a name or a template of one.

    ``finding`` is the sensor's event (kintsugi.core.observation.Finding as a dict), None when started by hand;
    ``action`` ("auto", "restart", "rebuild", "roll_back") and ``dry_run`` ("True", "False") may be templates.
    """
    with TaskGroup(
        GROUP,
        group_display_name="recovery (Terraform, then Ansible)",
        tooltip="Recover a failed node: confirm, evaluate the guards, decide, act, verify",
    ) as group:
        decision, back, end = decide(), rejoin(), record()
        with _tool_group(
            "terraform", "Terraform", "Plan the replacement of this node alone, fence the old one, apply"
        ):
            dry = _add_step(show_plan, "terraform plan, dry run")
            planned, provisioned = _add_step(plan, "terraform plan"), _add_step(provision, "terraform apply")
        with _tool_group(
            "ansible", "Ansible", "Configure the new node, or start the service again on the old one"
        ):
            rebuilt = _add_step(configure, "ansible-playbook")
            restarted = _add_step(restart, "ansible-playbook, or kill what hangs")

        confirmed = confirm(node=node, finding=finding, action=action, dry_run=dry_run)
        linked: list[Any] = [confirmed, end]
        for result in linked:
            result.operator.operator_extra_links = (IncidentLink(),)
        confirmed >> [archive_logs(), stand_down()] >> end
        confirmed >> request_approval() >> [decision, back, end]
        confirmed >> decision

        decision >> dry >> end
        decision >> back  # the service starts by itself: only wait for it
        decision >> restarted >> back
        chain(decision, planned, provisioned, rebuilt, back)
        chain(back, verify(), canary(), end)
    return group

"""The recovery subgraph: one TaskGroup, used by every ``watch_<node>`` DAG and by ``recover_node``.

Read it from top to bottom; it is the algorithm:

1. ``confirm``       a second opinion: probe again, ask the peers; takes the lease, opens the incident. Then the
                     guards: may we act? budget, breaker, quorum, last copy, maintenance; a refusal asks a human.
2. ``archive_logs``  the node's logs go to S3 under the incident (beside the repair, not before it:
                     the collector holds them already, so nothing is lost by not waiting).
3. ``decide``        restart, rebuild, roll back, or only show the plan (dry run).
4. ``plan``          ``terraform plan -replace`` of this node alone, judged.
5. ``provision``     the old node is fenced: it can't come back and write; then exactly that plan is applied. One that
                     answers again is let back in: nothing is done to it, and it goes on with 7.
6. ``configure``     Ansible, from artifacts cached beforehand.
7. ``rejoin``        by role: redundant first (the node serves again), then consistent (its data is whole).
8. ``verify``, ``canary``   proof by this very node; then a trade from S3's end to Cassandra's.
9. ``record``        always: closes the incident, writes its story to S3, fails the run unless all is well.

Airflow's graph shows two groups: *Terraform* (``plan``, ``provision``, ``show_plan``) and *Ansible* (``configure``,
``restart``). They change only what one sees: the id of each task stays ``recovery.<step>``, because runbooks, links
and the records of earlier runs refer to it.

The journal has more steps than this has tasks: the way from one task to the next takes 2 s and more, so what needs no
face of its own shares one (docs/decisions/0085).

A repair that fails closes its attempt and fails the run. The next run of the watch finds the node still
sick, continues the same incident, and ``decide`` escalates on what the journal says was tried.

Between tasks travels only a reference (incident, node, holder of the lease). What was seen and decided stands
in the journal, so any task can be killed and run again. Every step takes a fresh fencing token when it
starts; a step that was thought dead and lives on is refused at its next act.

The tasks pull the reference themselves instead of taking it as an argument: an argument would make ``confirm`` a
direct upstream of every task, and a join with ``none_failed_min_one_success`` would then run although its
whole path was skipped.
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
from kintsugi.airflow_ext.triggers.node_health_listener import found
from kintsugi.core.errors import GuardRefused, LeaseHeld, NodeReturned, PermanentStepError
from kintsugi.operations.approval_answers import LOOK_AGAIN
from kintsugi.recovery.guard_model import APPROVE, DECLINE

if TYPE_CHECKING:
    from kintsugi.operations.context import Context, RecoveryRef

GROUP = "recovery"
APPROVAL_WAIT = timedelta(minutes=30)
# Steps are safe to run twice, so a killed worker costs a retry and not the repair.
RETRY: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=2), "pool": "recovery"}
WAITING = "rejoin"  # a pool of its own: waiting for a node may take hours, and others need a recovery's slots
BEGAN = "began"  # the key under which confirm keeps that the repair is this run's
CASE = "case"  # the key under which confirm keeps what the later steps are about
REJOIN_LIMIT = timedelta(
    hours=5
)  # above what act.PATIENCE_S and compare_cassandra.COMPARISON_S allow together
JOIN = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS


def _own_context() -> Context:
    from kintsugi.operations.context import Context  # parse time: a task needs it, a DAG file doesn't

    return Context.from_environment()


def _case(context: Any) -> RecoveryRef:
    from kintsugi.operations.context import RecoveryRef  # parse time

    return RecoveryRef.from_xcom(context["ti"].xcom_pull(task_ids=f"{GROUP}.confirm", key=CASE))


@contextmanager
def _acting(context: Any, *, untouched: bool = False) -> Iterator[tuple[Context, RecoveryRef]]:
    """What an acting task works with, and what becomes of its errors; ``untouched`` as `step_failures.blame` has it."""
    from kintsugi.recovery.step_failures import handle_control_plane_fault  # parse time

    own_context, ref = _own_context(), _case(context)
    with _no_retry(), handle_control_plane_fault(own_context, ref, untouched=untouched):
        yield own_context, ref


@contextmanager
def _no_retry() -> Iterator[None]:
    """Airflow's retries are for killed workers: what failed for good, or was refused, goes to the record at once.

    So does a step whose incident is closed, as one that was cleared long after its run. A step that finds the node
    serving again is skipped: its attempt was withdrawn, and the node is let back in by what follows (`rejoin`).
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

    Goes on, stands down, or asks a human; the reason is in the journal. Two steps in one task, because the way from
    one task to the next takes longer than either.
    """
    from kintsugi.recovery import assessment, guard_evaluation  # parse time

    run = context["dag_run"]
    context["ti"].xcom_push(key=BEGAN, value=True)
    try:
        ref = assessment.confirm_finding(
            _own_context(),
            node=node,
            holder=f"{run.dag_id}/{run.run_id}",
            finding=found(finding),
            requested=action,
            dry_run=dry_run == "True",
        )
    except LeaseHeld as held:
        context["ti"].xcom_push(key=BEGAN, value=False)
        raise AirflowSkipException(str(held)) from held
    context["ti"].xcom_push(key=CASE, value=ref.to_xcom())
    path = guard_evaluation.evaluate_guards(_own_context(), ref)
    if "ask_a_human" in path:
        context["ti"].xcom_push(key="reasons", value=guard_evaluation.refusal_reasons(_own_context(), ref))
    return [f"{GROUP}.{name}" for name in path]


@task(**RETRY | {"pool": "default_pool"})  # beside the way: it leaves the processors to those on it
def archive_logs(**context: Any) -> list[str]:
    """Copy what the collector holds of the node to S3; returns the keys."""
    from kintsugi.recovery import report  # parse time

    with _no_retry():
        return report.archive_logs(_own_context(), _case(context))


@task.branch(trigger_rule=JOIN, **RETRY)
def decide(**context: Any) -> str:
    """Choose the path; a human's approval, when there was one, goes into the journal first."""
    from kintsugi.recovery import guard_evaluation  # parse time

    approved_by = context["ti"].xcom_pull(task_ids=f"{GROUP}.ask_a_human", key="approved_by")
    with _no_retry():
        return f"{GROUP}.{guard_evaluation.choose_path(_own_context(), _case(context), approved_by)}"


@task(**RETRY)
def stand_down(**context: Any) -> str:
    """A false alarm: nothing is touched."""
    from kintsugi.recovery import assessment  # parse time

    with _no_retry():
        return assessment.close_without_action(_own_context(), _case(context))


@task(**RETRY)
def show_plan(**context: Any) -> str:
    """Dry run: what Terraform would do, in its own words; nothing changes."""
    from kintsugi.recovery import actions  # parse time

    with _no_retry():
        return actions.show_plan(_own_context(), _case(context))


@task(**RETRY)
def restart(**context: Any) -> None:
    """Start the service again on a node whose disk is good."""
    from kintsugi.recovery import actions  # parse time

    with _acting(context) as (own_context, ref):
        actions.restart_service(own_context, ref)


@task(**RETRY)
def plan(**context: Any) -> str:
    """Plan the replacement of this node alone and judge the plan; returns the plan's path."""
    from kintsugi.recovery import actions  # parse time

    with _acting(context, untouched=True) as (own_context, ref):
        return actions.plan_replacement(own_context, ref)


@task(**RETRY)
def provision(**context: Any) -> None:
    """Fence the old node, so that it can't come back and write, and apply exactly the judged plan.

    A stale plan is made and judged again.
    """
    from kintsugi.recovery import actions  # parse time

    with _acting(context) as (own_context, ref):
        actions.fence_node(own_context, ref)
        actions.apply_plan(own_context, ref, context["ti"].xcom_pull(task_ids=f"{GROUP}.plan"))


@task(**RETRY)
def configure(**context: Any) -> None:
    """Let Ansible make the empty server a node of its role."""
    from kintsugi.recovery import actions  # parse time

    with _acting(context) as (own_context, ref):
        actions.configure_node(own_context, ref)


@task(trigger_rule=JOIN, execution_timeout=REJOIN_LIMIT, **RETRY | {"pool": WAITING})
def rejoin(**context: Any) -> str:
    """Wait until the node serves again, then make its data whole."""
    from kintsugi.recovery import actions  # parse time

    with _acting(context) as (own_context, ref):
        return actions.rejoin_node(own_context, ref)


@task(**RETRY)
def verify(**context: Any) -> str:
    """Proof by this very node, as a sentence."""
    from kintsugi.recovery import actions  # parse time

    with _acting(context) as (own_context, ref):
        return actions.verify_recovery(own_context, ref)


@task(**RETRY)
def canary(**context: Any) -> str:
    """A canary trade goes in at S3's end and is read back from Cassandra."""
    from kintsugi.recovery import actions  # parse time

    with _acting(context) as (own_context, ref):
        return actions.verify_synthetic_trade(own_context, ref)


@task(trigger_rule=TriggerRule.ALL_DONE, **RETRY | {"retries": 5})
def record(**context: Any) -> str:
    """Close the incident and tell its story; fails the run unless the node is well."""
    from kintsugi.recovery import report  # parse time

    ti = context["ti"]
    if ti.xcom_pull(task_ids=f"{GROUP}.confirm", key=CASE) is None:
        if ti.xcom_pull(task_ids=f"{GROUP}.confirm", key=BEGAN):
            raise AirflowFailException("confirm failed before it opened a case; see its log")
        raise AirflowSkipException(
            "no case was opened: nothing was found, or another run repairs this node and keeps the record"
        )
    story = report.record_outcome(_own_context(), _case(context))
    if not story.well:
        raise AirflowFailException(story.text)
    return story.text


def request_approval() -> Any:
    """A refused repair waits here, under "required actions" in Airflow, without a worker slot."""
    return RepairApproval(
        task_id="ask_a_human",
        subject="A guard refused a repair. Act all the same?",
        body=(
            "{% set case = ti.xcom_pull(task_ids='recovery.confirm', key='case') %}"
            "Node **{{ case['node'] }}**, incident `{{ case['incident'] }}`. Refused because:\n\n"
            "{% for reason in ti.xcom_pull(task_ids='recovery.confirm', key='reasons') or [] %}"
            "- {{ reason }}\n{% endfor %}"
            "\nThe whole story: `make incident ID={{ case['incident'] }}`.\n\n"
            "*Approve* repairs the node against the guard's advice; a node that still answers is not "
            "destroyed even then. *Look again* proves the node, and is answered by itself when the node serves again."
        ),
        options=[APPROVE, DECLINE, LOOK_AGAIN],
        options_mapping={
            APPROVE: f"{GROUP}.decide",
            DECLINE: f"{GROUP}.record",
            LOOK_AGAIN: f"{GROUP}.rejoin",
        },
        defaults=DECLINE,
        response_timeout=APPROVAL_WAIT,
        # An answer within a second or two of the question can be lost: the scheduler takes the end of the asking
        # process for a failure of the resumed task (apache/airflow issue 72716). Then the question is asked anew.
        retries=2,
        retry_delay=timedelta(seconds=2),
    )


def _tool(group_id: str, display_name: str, tooltip: str) -> TaskGroup:
    """A group that Airflow's graph draws around the steps of one tool. It gives their ids no prefix (`_shown`)."""
    return TaskGroup(group_id, group_display_name=display_name, tooltip=tooltip, prefix_group_id=False)


def _shown(step: Any, command: str) -> Any:
    """A step in the group of its tool: its id stays ``recovery.<step>``, Airflow shows ``<step> (<command>)``."""
    name = step.function.__name__
    return step.override(task_id=f"{GROUP}.{name}", task_display_name=f"{name} ({command})")()


def recovery(*, node: str, finding: Any = None, action: str = "auto", dry_run: str = "False") -> TaskGroup:
    """Build the subgraph for ``node``, a name or a template of one.

    ``finding`` is the sensor's event (kintsugi.core.observation.Finding as a dict), None when started by hand;
    ``action`` ("auto", "restart", "rebuild", "roll_back") and ``dry_run`` ("True", "False") may be templates.
    """
    with TaskGroup(
        GROUP,
        group_display_name="recovery (Terraform, then Ansible)",
        tooltip="Recover a sick node: confirm, evaluate the guards, decide, act, verify",
    ) as group:
        path, back, end = decide(), rejoin(), record()
        with _tool(
            "terraform", "Terraform", "Plan a new server for this node alone, fence the old one, apply"
        ):
            dry = _shown(show_plan, "terraform plan, dry run")
            planned, provisioned = _shown(plan, "terraform plan"), _shown(provision, "terraform apply")
        with _tool(
            "ansible", "Ansible", "Configure the new server, or start the service again on the old one"
        ):
            rebuilt = _shown(configure, "ansible-playbook")
            restarted = _shown(restart, "ansible-playbook, or kill what hangs")

        confirmed = confirm(node=node, finding=finding, action=action, dry_run=dry_run)
        linked: list[Any] = [confirmed, end]
        for result in linked:
            result.operator.operator_extra_links = (IncidentLink(),)
        confirmed >> [archive_logs(), stand_down()] >> end
        confirmed >> request_approval() >> [path, back, end]
        confirmed >> path

        path >> dry >> end
        path >> back  # the service is on its way up by itself: only wait for it
        path >> restarted >> back
        chain(path, planned, provisioned, rebuilt, back)
        chain(back, verify(), canary(), end)
    return group

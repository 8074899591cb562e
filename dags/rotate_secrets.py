"""Renew certificates and passwords, and roll them out node by node."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param, task

from kintsugi.core.dag_ids import holder_of

RUNBOOK = """
### Rotate secrets

Makes new certificates, new logins of Cassandra, new keys of S3 and SSH, a new host authority of SSH, and a new password
of JMX. Spark's nodes get them without a restart. Then it rolls out the release that the nodes run (`deploy_release`),
which restarts the nodes of Kafka and Cassandra one at a time. The old secrets are valid until every node has the new
ones, so nothing stops for it. They are dropped after a backup has the new ones: a restore needs them.

Airflow's own keys stay: to renew them stops Airflow, and no run of a DAG can do that. `kintsugi rotate-secrets` renews
them before it triggers this DAG.

With **Replace the authority**, it also publishes the next certificate authority. The third such rotation stops trusting
the present one. Spark's nodes are restarted too, so the stream stands still for about 40 s.

It is paused: unpause it for a rotation on the first of each month, or trigger it.
On the command line, Airflow's own keys included: `kintsugi rotate-secrets`.

**`renew` failed?** Cassandra did not answer, or a roll-out is under way; the log says which. Nothing was changed. Clear
the task when the nodes are healthy.
**`hand_out` failed?** A node of Spark is down, or another run changes it. Clear the task when the node is healthy.
**`roll_out` failed?** Look at the run of `deploy_release` with the same time. Nodes that were not reached have the old
secrets, which are still valid. Trigger `rotate_secrets` again when the cause is gone: it goes on with the same secrets.
**`back_up` failed?** Look at the run of `back_up_control_plane` with the same time. Clear the task when it can succeed.
**`certify_hosts` failed?** A node is down, or another run changes it; the log names it. Both authorities are trusted.
Clear the task when the node is healthy.
**`finish` failed?** A client still uses an old login; the log names both. Restart the client, then clear the task.
"""

# A node that is busy or away is asked again.
AT_NODES: dict[str, Any] = {
    "retries": 3, "retry_delay": timedelta(seconds=30), "execution_timeout": timedelta(minutes=15),
}  # fmt: skip

with DAG(
    dag_id="rotate_secrets",
    description="Renew certificates and passwords, and roll them out node by node",
    doc_md=RUNBOOK,
    schedule=CronTriggerTimetable("0 4 1 * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    tags=["kintsugi", "release"],
    default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=90)},
    params={
        "authority": Param(
            default=False,
            type="boolean",
            title="Replace the authority",
            description="Publish the next certificate authority; Spark's nodes are restarted for it",
        ),
    },
) as dag:

    @task(task_id="renew", execution_timeout=timedelta(minutes=5))
    def renew(**context: object) -> str:
        """Renew the secrets; returns the digest of the release that is rolled out to bring them to the nodes."""
        from kintsugi.operations.context import Context
        from kintsugi.releases.secret_rotation import release_to_roll_out, renew_secrets

        ours = Context.from_environment()
        digest = release_to_roll_out(ours)
        print(renew_secrets(ours.settings, authority=bool(context["params"]["authority"])))  # type: ignore[index]
        return digest

    @task(task_id="hand_out", **AT_NODES)
    def hand_out(**context: object) -> str:
        """Give the new secrets to Spark's nodes, without a restart; returns a sentence."""
        from kintsugi.operations.context import Context
        from kintsugi.releases.secret_rotation import hand_out_secrets

        return hand_out_secrets(Context.from_environment(), holder_of(context["dag_run"]))

    @task(task_id="certify_hosts", **AT_NODES)
    def certify_hosts(**context: object) -> str:
        """Give each node a host certificate of the next authority of SSH; returns a sentence."""
        from kintsugi.operations.context import Context
        from kintsugi.releases.secret_rotation import certify_hosts as certify_all_hosts

        return certify_all_hosts(Context.from_environment(), holder_of(context["dag_run"]))

    @task(task_id="finish", execution_timeout=timedelta(minutes=5))
    def finish() -> str:
        """Drop the old logins, once every node has its new one; returns a sentence."""
        from kintsugi.operations.context import Context
        from kintsugi.releases.secret_rotation import finish_rotation

        return finish_rotation(Context.from_environment().settings)

    roll_out = TriggerDagRunOperator(
        task_id="roll_out",
        trigger_dag_id="deploy_release",
        conf={"release": "{{ ti.xcom_pull(task_ids='renew') }}", "dry_run": False, "again": True},
        wait_for_completion=True,
        deferrable=True,
        poke_interval=10,
    )
    # Before `finish`: a control plane that is restored with dropped logins could not log on to Cassandra.
    back_up = TriggerDagRunOperator(
        task_id="back_up",
        trigger_dag_id="back_up_control_plane",
        wait_for_completion=True,
        deferrable=True,
        poke_interval=10,
    )
    renew() >> hand_out() >> roll_out >> back_up >> certify_hosts() >> finish()

"""Back up the control plane to S3 each night, encrypted."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

RUNBOOK = """
### Backup of the control plane

Both databases, Terraform's state, secrets, certificates, releases and the fleet file become one encrypted object in S3
under `backups/<time>/`, with a manifest beside it. The newest 14 are kept (`KINTSUGI_BACKUPS_KEPT`). Trades and the
disks of nodes are not in it. On the command line: `kintsugi backup`; back again: `kintsugi restore`.

**Is the key in a second place?** The key is a file (`/etc/kintsugi/backup.key`, or `KINTSUGI_BACKUP_KEY`), and in no
backup. Without a copy on another machine a backup is worth nothing when this machine is lost.

**Do the backups survive this machine?** Only if the connection `kintsugi_backup` names a bucket elsewhere. The own S3
server is lost with the machine.

**It failed?** The log says why: S3 or Postgres did not answer, the key can't be read, or secrets changed meanwhile. It
is tried again twice, then the next night. An interrupted backup has no manifest and never counts.
"""

with DAG(
    dag_id="back_up_control_plane",
    description="Back up databases, secrets and releases to S3, encrypted",
    doc_md=RUNBOOK,
    # No start date: with one, a new installation would first run for the night before.
    schedule=CronTriggerTimetable("0 3 * * *", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    default_args={"owner": "kintsugi", "retries": 2, "retry_delay": timedelta(minutes=10)},
) as dag:

    @task(task_id="back_up", execution_timeout=timedelta(hours=2))
    def back_up() -> str:
        """Make one backup and delete the oldest; returns what was made, as text."""
        from kintsugi.core.settings import load_settings
        from kintsugi.installation import backup

        made = str(backup.back_up(load_settings()))
        print(made)
        return made

    back_up()

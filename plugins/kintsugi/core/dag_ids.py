"""The ids of DAGs that other code uses; `fleet.watch_dag_id` returns those of the watches."""

from __future__ import annotations

from typing import Any

INGEST_DAG = "ingest_trades"
BASELINE_DAG = "build_baseline"
DRIFT_DAG = "check_drift"
STREAM_DAG = "stream_trades"
FIRST_DAGS = (STREAM_DAG, BASELINE_DAG)
"""The DAGs that run before the first trade is ingested."""
REPLACE_DAG = "replace_node"
SCALE_DAG = "scale_fleet"
RECOVERY_DAG = "recover_node"
SWEEP_RUN = "sweep__"
"""How the ids of the runs begin that the sweep of open incidents starts."""
WEBHOOK_RUN = "honeycomb__"
"""How the ids of the runs begin that Honeycomb's webhook starts."""


def holder_of(dag_run: Any) -> str:
    """Return ``<dag>/<run>``: the name in which a run of Airflow holds leases and flags."""
    return f"{dag_run.dag_id}/{dag_run.run_id}"


def is_requested_recovery(dag_run: Any) -> bool:
    """Whether the run is a recovery that a person requested, and not a watch, a sweep or the webhook."""
    started_by_itself = str(dag_run.run_id).startswith((SWEEP_RUN, WEBHOOK_RUN))
    return bool(dag_run.dag_id == RECOVERY_DAG and not started_by_itself)


def is_replacement(run: str) -> bool:
    """Whether ``run`` (``<dag>/<run>``, a holder of leases and flags) replaces a node that serves, on purpose."""
    return run.startswith(f"{REPLACE_DAG}/")


def is_scaling(run: str) -> bool:
    """Whether ``run`` (``<dag>/<run>``, a holder of leases and flags) adds nodes to the fleet or removes some."""
    return run.startswith(f"{SCALE_DAG}/")

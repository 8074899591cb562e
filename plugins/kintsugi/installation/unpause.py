"""``make unpause``: let the watches, the stream and the ingest run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.dag_ids import FIRST_DAGS, INGEST_DAG
from kintsugi.core.fleet import Fleet, watch_dag_id
from kintsugi.operations.context import Context

if TYPE_CHECKING:
    from kintsugi.infra.airflow_client import Airflow


def watches(fleet: Fleet) -> list[str]:
    """The DAGs that watch the nodes."""
    return [watch_dag_id(name) for name in fleet.nodes]


def unpause_dags(context: Context) -> Airflow:
    """Let every watch, the stream and the ingest run, whatever was paused before; returns the client for Airflow."""
    airflow = ControlPlane(context.settings).airflow
    airflow.unpause(*FIRST_DAGS, *watches(context.fleet), INGEST_DAG, watch_dag_id("flow"))
    return airflow

"""``make unpause``: unpause the watches, the stream and the ingest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.dag_ids import FIRST_DAGS, INGEST_DAG
from kintsugi.core.fleet import Fleet, watch_dag_id
from kintsugi.operations.context import Context

if TYPE_CHECKING:
    from kintsugi.infra.airflow_client import Airflow


def watch_dags(fleet: Fleet) -> list[str]:
    """Return the ids of the DAGs that watch the nodes."""
    return [watch_dag_id(name) for name in fleet.nodes]


def unpause_dags(context: Context) -> Airflow:
    """Unpause every watch, the stream and the ingest; returns the client for Airflow."""
    airflow = ControlPlane(context.settings).airflow
    airflow.unpause(*FIRST_DAGS, *watch_dags(context.fleet), INGEST_DAG, watch_dag_id("flow"))
    return airflow

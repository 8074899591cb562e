"""The ids of DAGs that other code uses; `fleet.watch_dag_id` returns those of the watches."""

from __future__ import annotations

INGEST_DAG = "ingest_trades"
BASELINE_DAG = "build_baseline"
DRIFT_DAG = "check_drift"
STREAM_DAG = "stream_trades"
FIRST_DAGS = (STREAM_DAG, BASELINE_DAG)
"""The DAGs that run before the first trade is ingested."""

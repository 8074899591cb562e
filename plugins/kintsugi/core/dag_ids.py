"""The ids of the DAGs that the rest of the code names; those of the watches are `fleet.watch_of`'s."""

from __future__ import annotations

INGEST_DAG = "ingest_trades"
BASELINE_DAG = "build_baseline"
DRIFT_DAG = "check_drift"
STREAM_DAG = "stream_trades"
FIRST_DAGS = (STREAM_DAG, BASELINE_DAG)
"""What runs before the first trade is ingested."""

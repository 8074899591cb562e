"""Which run is a replacement on purpose, and which one a person requested."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kintsugi.core.dag_ids import RECOVERY_DAG, REPLACE_DAG, is_replacement, is_requested_recovery
from kintsugi.db.flags import IN_FORCE
from kintsugi.recovery.sweep_rules import sweep_run_id
from kintsugi.telemetry.webhook import recovery_run
from tests.fixtures_incidents import healed


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (f"{REPLACE_DAG}/manual__1", True),
        ("recover_node/sweep__kafka-2-x__1", False),
        ("watch_kafka-2/run-1", False),
        (REPLACE_DAG, False),  # a person may have this name
        (f"{REPLACE_DAG}_nightly/1", False),
    ],
)
def test_a_run_is_a_replacement_by_its_dag(run: str, expected: bool) -> None:
    assert is_replacement(run) is expected


@pytest.mark.parametrize(
    ("dag_id", "run_id", "expected"),
    [
        (RECOVERY_DAG, "manual__2026-11-30T12:00:00", True),
        (RECOVERY_DAG, sweep_run_id(healed(), 0), False),
        (RECOVERY_DAG, recovery_run("d-1", "kafka-2"), False),
        (REPLACE_DAG, "manual__2026-11-30T12:00:00", False),
        ("watch_kafka-2", "scheduled__2026-11-30T12:00:00", False),
    ],
)
def test_a_recovery_is_requested_by_a_person_unless_a_machine_started_it(
    dag_id: str, run_id: str, expected: bool
) -> None:
    assert is_requested_recovery(SimpleNamespace(dag_id=dag_id, run_id=run_id)) is expected


def test_the_database_knows_it_by_the_same_name() -> None:
    assert f"'{REPLACE_DAG}'" in IN_FORCE

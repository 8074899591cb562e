"""Which run is a replacement on purpose."""

from __future__ import annotations

import pytest

from kintsugi.core.dag_ids import REPLACE_DAG, is_replacement
from kintsugi.db.flags import IN_FORCE


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


def test_the_database_knows_it_by_the_same_name() -> None:
    assert f"'{REPLACE_DAG}'" in IN_FORCE

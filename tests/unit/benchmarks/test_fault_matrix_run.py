"""Which rows of a report a run of the table of faults keeps."""

from __future__ import annotations

from typing import Any

from benchmarks.fault_matrix_run import keep_rows
from benchmarks.scenario_report import NOT_BEGUN, judge_reconciliation

DONE = {"fault": "hung:kafka-1", "outcome": "as designed"}
BAD = {"fault": "hung:kafka-2", "outcome": "the verdict was dead"}
NOT_TRIED = {"fault": "slow:kafka-3", "outcome": f"{NOT_BEGUN}: kafka-3 doesn't answer"}


def report(*rows: dict[str, Any], finished: bool) -> dict[str, Any]:
    return {"cells": list(rows), "finished": finished}


def test_an_ended_run_goes_on_after_its_rows_good_or_bad() -> None:
    rows, goes_on = keep_rows(report(DONE, BAD, NOT_TRIED, finished=False), whole=True)
    assert goes_on
    assert list(rows.values()) == [DONE, BAD], "what couldn't be begun is tried again"


def test_a_finished_run_or_none_is_begun_anew() -> None:
    assert keep_rows(report(DONE, BAD, finished=True), whole=True) == ({}, False)
    assert keep_rows({"cells": [DONE]}, whole=True) == ({}, False)
    assert keep_rows({}, whole=True) == ({}, False)
    assert keep_rows(report(NOT_TRIED, finished=False), whole=True) == ({}, False)


def test_named_scenarios_leave_the_rows_of_others() -> None:
    for finished in (True, False):
        rows, goes_on = keep_rows(report(DONE, BAD, finished=finished), whole=False)
        assert (list(rows), goes_on) == (["hung:kafka-1", "hung:kafka-2"], False)


def test_a_stream_that_stands_still_is_not_healed_though_nothing_is_lost() -> None:
    assert judge_reconciliation({"lost": 0, "in_flight": 0}) is None
    assert str(judge_reconciliation({"lost": 0, "in_flight": 1500})).startswith(
        "1,500 trades had not come through"
    )
    assert judge_reconciliation({}) == "the reconciliation failed"

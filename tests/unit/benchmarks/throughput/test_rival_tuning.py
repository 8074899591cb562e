from __future__ import annotations

import pytest

from benchmarks.throughput.drain import rate_between
from benchmarks.throughput.meters import StreamReading
from benchmarks.throughput.rival import measure, tuning
from benchmarks.throughput.rival.tuning import RivalBatch, RivalTuning
from kintsugi.core.errors import StepFailed


def test_the_rate_leaves_out_the_first_batch_and_triggers_without_rows() -> None:
    batches = tuning.read_batches(
        [
            ("2026-11-30T12:00:00.000Z", 9_000, 20_000),
            ("2026-11-30T12:00:09.000Z", 2_000, 20_000),
            ("2026-11-30T12:00:11.500Z", 1_500, 10_000),
            ("2026-11-30T12:05:00.000Z", 5, 0),
        ]
    )
    assert [batch.rows for batch in batches] == [20_000, 20_000, 10_000]
    assert tuning.rate_of_batches(batches) == pytest.approx(30_000 / 4.0)


def test_one_batch_gives_no_rate() -> None:
    with pytest.raises(StepFailed):
        tuning.rate_of_batches([RivalBatch(1.0, 20_000)])


def test_a_rate_needs_two_batches_after_the_first() -> None:
    large = RivalTuning(50_000, 64, 16_384)
    assert large.messages_to_measure(100_000, 600_000) == 150_000
    assert large.messages_to_measure(100_000, 120_000) == 120_000
    assert tuning.START.messages_to_measure(100_000, 600_000) == 100_000


def test_a_tuning_is_the_connectors_own_settings() -> None:
    assert tuning.START.to_options() == {
        "spark.cassandra.output.concurrent.writes": "64",
        "spark.cassandra.output.batch.size.bytes": "16384",
    }


def test_the_sweep_goes_on_from_the_best_and_its_first_drain_counts_nothing() -> None:
    asked: list[RivalTuning] = []

    def rate_of(tried: RivalTuning) -> float:
        asked.append(tried)
        if tried.batch_bytes == 262_144:
            raise StepFailed("a write timed out")
        fast = tried.concurrent_writes == 128, tried.batch_bytes == 65_536, tried.rows_per_trigger == 50_000
        return 1_000.0 * sum(fast) + len(asked)

    swept = measure.sweep_rival(rate_of)
    assert swept.best == RivalTuning(50_000, 128, 65_536)
    assert asked[:2] == [tuning.START, tuning.CONNECTORS_DEFAULTS]
    assert swept.tried[tuning.START] == 3.0, "the drain that warms up was counted"
    assert swept.defaults == 2.0
    assert swept.tried[RivalTuning(20_000, 128, 262_144)] == 0.0
    assert len(swept.tried) == len(asked) - 1
    assert len(asked) + 1 == tuning.DRAINS, "there is a table for each drain, and for the one of all messages"


def test_the_rivals_table_is_that_of_the_pipeline() -> None:
    statement = measure.table_statement("trade_3")
    assert "EXISTS bench_rival.trade_3 (symbol text, " in statement
    assert "trades." not in statement
    assert "PRIMARY KEY ((symbol, trade_date, slot), ts, trade_id)" in statement


def test_a_drain_counts_from_commit_to_commit() -> None:
    first, end = StreamReading(100.0, 700, 300), StreamReading(110.0, 700, 700)
    assert rate_between(first, end, 500) == 40.0


def test_a_drain_of_which_little_waited_says_nothing() -> None:
    first, end = StreamReading(100.0, 700, 690), StreamReading(101.0, 700, 700)
    with pytest.raises(StepFailed):
        rate_between(first, end, 500)

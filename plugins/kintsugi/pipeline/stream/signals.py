"""The signals of single trades: a size or a volatility far above the baseline of the trade's bucket.

The two signals of a minute of trades are in `flow_windows`. The streaming driver scores a whole batch in arrays. It
looks the baselines up by symbol and day (`baselines`), so it needs neither a join nor a copy of the baseline table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kintsugi.pipeline.stream.baselines import BUCKET_INDEXES, BUCKET_VALUES, STATISTICS, Buckets
from kintsugi.pipeline.stream.derived_records import Day
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from pyarrow import Table

HIGH_VOLUME = "high_volume"
IV_JUMP = "iv_jump"
HIGH_VOLUME_Z = 1.2
MIN_CONTRACTS = 100
IV_JUMP_Z = 4.0
IV_JUMP_RATIO = 1.2
MIN_BUCKET = 5
# Logarithms of up to 20 are exact to 4e-15, and so is the deviation of equal values. The deviation of different values
# is greater than this: contracts are whole numbers, volatilities have four decimals.
MIN_LOG_STDDEV = 1e-9
USUAL = ("volume_mean", "volume_stddev", "iv_median", "iv_stddev")


def days_of(batch: Table) -> set[Day]:
    """Return the symbols and days of a batch."""
    names = ["symbol", "trade_date"]
    days = batch.select(names).group_by(names).aggregate([])
    return set(zip(days.column("symbol").to_pylist(), days.column("trade_date").to_pylist(), strict=True))


def with_scores(batch: Table, baselines: Mapping[Day, Buckets | None]) -> Table:
    """Add ``high_volume`` and ``iv_jump`` (null for a trade that doesn't signal), and ``usual_<statistic>`` of USUAL.

    ``batch``: stored trades (columns `batch_columns.RETURNED`). ``baselines``: the buckets of each symbol and day among
    them (`days_of`); None without a baseline. Every trade is returned once.
    """
    import pyarrow as pa

    baseline = dict(zip(STATISTICS, _baseline_values(batch, baselines).T, strict=True))
    can_signal = ~_column_values(batch, "canceled", bool) & (
        np.asarray(batch.column("symbol")) != SYNTHETIC_SYMBOL
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {
            HIGH_VOLUME: high_volume(_column_values(batch, "size", float), baseline),
            IV_JUMP: iv_jump(_column_values(batch, "iv", float), baseline),
        }
    for name, score in scores.items():
        batch = batch.append_column(name, pa.array(score, mask=np.isnan(score) | ~can_signal))
    for name in USUAL:
        batch = batch.append_column(f"usual_{name}", pa.array(baseline[name], mask=np.isnan(baseline[name])))
    return batch


def high_volume(size: Any, baseline: Mapping[str, Any]) -> Any:
    """Return how far the sizes of trades are above the baseline, in standard deviations; NaN without a signal.

    Arrays of one length; ``size`` in contracts. The score is the z-score of the size among the day's volumes of the
    bucket's contracts on a logarithmic scale: (ln size - ln median) / log_stddev. Volumes are heavy-tailed: the few
    busiest contracts dominate their plain mean and deviation, and a z-score of plain numbers misses all others.

    It is a signal from HIGH_VOLUME_Z on, for MIN_CONTRACTS or more, in a bucket of MIN_BUCKET or more. Without
    MIN_CONTRACTS, ten contracts of an underlying that hardly trades would signal. A bucket of constant volume never
    signals (`_is_usable_bucket`).
    """
    score = (np.log(size) - np.log(baseline["volume_median"])) / baseline["volume_log_stddev"]
    is_signal = _is_usable_bucket(baseline, "volume") & (score >= HIGH_VOLUME_Z) & (size >= MIN_CONTRACTS)
    return np.where(is_signal, score, np.nan)


def iv_jump(iv: Any, baseline: Mapping[str, Any]) -> Any:
    """Return how far volatilities are above the baseline, in standard deviations; NaN without a signal.

    Arrays of one length; ``iv`` as a fraction a year, 0 where unknown, which never signals. The score is
    (ln iv - ln median) / log_stddev of the bucket.

    It is a signal from IV_JUMP_Z on, if volatility is also IV_JUMP_RATIO times the median or more: in a bucket of
    almost equal volatilities, four deviations are no jump. A fall never signals: it follows every announcement. A
    bucket of constant volatility never signals (`_is_usable_bucket`).
    """
    ratio = iv / baseline["iv_median"]
    score = np.log(ratio) / baseline["iv_log_stddev"]
    is_signal = _is_usable_bucket(baseline, "iv") & (iv > 0) & (score >= IV_JUMP_Z) & (ratio >= IV_JUMP_RATIO)
    return np.where(is_signal, score, np.nan)


def _is_usable_bucket(baseline: Mapping[str, Any], name: str) -> Any:
    """Whether a bucket is large and wide enough for a score.

    A bucket whose standard deviation is 0 has no z-score. With rounding the deviation is about 1e-17 instead of 0, and
    scores would be about 1e16. So a deviation below MIN_LOG_STDDEV counts as 0, and every score is finite.
    """
    return (baseline[f"{name}_count"] >= MIN_BUCKET) & (baseline[f"{name}_log_stddev"] >= MIN_LOG_STDDEV)


def _column_values(batch: Table, name: str, kind: type) -> Any:
    return batch.column(name).to_numpy().astype(kind)


def _baseline_values(batch: Table, baselines: Mapping[Day, Buckets | None]) -> Any:
    """Return the baseline of each trade, by statistic; NaN without a baseline."""
    bucket = np.zeros(batch.num_rows, dtype=np.int64)
    has_bucket = np.ones(batch.num_rows, dtype=bool)
    for name, values in BUCKET_VALUES.items():
        indexes = _value_indexes(batch, name, values)
        has_bucket &= indexes >= 0
        bucket = bucket * len(values) + np.maximum(indexes, 0)
    symbols, dates = (
        batch.column(name).combine_chunks().dictionary_encode() for name in ("symbol", "trade_date")
    )
    days = symbols.indices.to_numpy().astype(np.int64) * len(dates.dictionary) + dates.indices.to_numpy()
    symbol_names, date_texts = symbols.dictionary.to_pylist(), dates.dictionary.to_pylist()
    codes, day_of_trade = np.unique(days, return_inverse=True)
    tables = np.full((len(codes), len(BUCKET_INDEXES), len(STATISTICS)), np.nan)
    for index, code in enumerate(codes):
        symbol, date = divmod(int(code), len(date_texts))
        buckets = baselines.get((symbol_names[symbol], date_texts[date]))
        if buckets is not None:
            tables[index] = buckets
    result = tables[day_of_trade, bucket]
    result[~has_bucket] = np.nan
    return result


def _value_indexes(batch: Table, name: str, values: tuple[str, ...]) -> Any:
    """Return the index of each value of a column among ``values``; -1 for null and for any other value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return (
        pc.fill_null(pc.index_in(batch.column(name), value_set=pa.array(values)), -1)
        .to_numpy()
        .astype(np.int64)
    )

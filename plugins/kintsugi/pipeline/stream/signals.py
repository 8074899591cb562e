"""The signals that look at one trade: a size or a volatility far above what is usual in the trade's bucket.

The two that look at a minute of trades are in `windows`. The streaming driver scores a batch at once, in arrays: what
is usual is looked up by symbol and day (`baselines`), so no join and no copy of the baseline table is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kintsugi.pipeline.stream.baselines import BUCKET_VALUES, PLACES, STATISTICS, Buckets
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
# Logarithms of up to 20 are exact to 4e-15, and so is the deviation of equal values. Values that differ at all deviate
# by more than this: contracts are whole numbers, volatilities have four decimals.
MIN_LOG_STDDEV = 1e-9
USUAL = ("volume_mean", "volume_stddev", "iv_median", "iv_stddev")


def days_of(batch: Table) -> set[Day]:
    """The symbols and days of a batch."""
    names = ["symbol", "trade_date"]
    found = batch.select(names).group_by(names).aggregate([])
    return set(zip(found.column("symbol").to_pylist(), found.column("trade_date").to_pylist(), strict=True))


def with_scores(batch: Table, baselines: Mapping[Day, Buckets | None]) -> Table:
    """Adds ``high_volume`` and ``iv_jump`` (null for a trade that doesn't signal), and ``usual_<statistic>`` of USUAL.

    In: stored trades (columns `derived_tables.RETURNED`), and what is usual for each symbol and day among them
    (`days_of`), None where nothing is known. Every trade comes out once.
    """
    import pyarrow as pa

    usual = dict(zip(STATISTICS, _baseline_values(batch, baselines).T, strict=True))
    counts = ~_column_values(batch, "canceled", bool) & (
        np.asarray(batch.column("symbol")) != SYNTHETIC_SYMBOL
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {
            HIGH_VOLUME: high_volume(_column_values(batch, "size", float), usual),
            IV_JUMP: iv_jump(_column_values(batch, "iv", float), usual),
        }
    for name, score in scores.items():
        batch = batch.append_column(name, pa.array(score, mask=np.isnan(score) | ~counts))
    for name in USUAL:
        batch = batch.append_column(f"usual_{name}", pa.array(usual[name], mask=np.isnan(usual[name])))
    return batch


def high_volume(size: Any, usual: Mapping[str, Any]) -> Any:
    """How unusual the size of trades is, in standard deviations; NaN for a usual trade. Arrays of one length.

    ``size`` in contracts. The score is the z-score of the size among the day's volumes of the bucket's contracts on a
    logarithmic scale, (ln size - ln median) / log_stddev: volumes are heavy-tailed, so their mean and standard
    deviation are ruled by the few busiest contracts, and a z-score of the plain numbers is blind to all others. A
    signal from HIGH_VOLUME_Z on, for MIN_CONTRACTS or more (an underlying that hardly trades makes ten contracts
    look large), in a bucket of MIN_BUCKET or more. A bucket of constant volume says nothing (`_is_usable_bucket`).
    """
    score = (np.log(size) - np.log(usual["volume_median"])) / usual["volume_log_stddev"]
    hit = _is_usable_bucket(usual, "volume") & (score >= HIGH_VOLUME_Z) & (size >= MIN_CONTRACTS)
    return np.where(hit, score, np.nan)


def iv_jump(iv: Any, usual: Mapping[str, Any]) -> Any:
    """How far volatility lies above the usual, in standard deviations; NaN if it doesn't. Arrays of one length.

    ``iv`` as a fraction a year, 0 where unknown, which says nothing. The score is (ln iv - ln median) / log_stddev of
    the bucket. A signal from IV_JUMP_Z on, if volatility is also IV_JUMP_RATIO times the usual or more: in a bucket of
    almost equal volatilities four deviations are no jump. A fall is no signal: it follows every announcement. A
    bucket of constant volatility says nothing (`_is_usable_bucket`).
    """
    ratio = iv / usual["iv_median"]
    score = np.log(ratio) / usual["iv_log_stddev"]
    hit = _is_usable_bucket(usual, "iv") & (iv > 0) & (score >= IV_JUMP_Z) & (ratio >= IV_JUMP_RATIO)
    return np.where(hit, score, np.nan)


def _is_usable_bucket(usual: Mapping[str, Any], name: str) -> Any:
    """Whether a bucket is large and wide enough for a score.

    A bucket whose standard deviation is 0 has no z-score. Rounding leaves about 1e-17 instead of 0, which made scores
    of 1e16; so a deviation below MIN_LOG_STDDEV counts as 0, and every score is finite.
    """
    return (usual[f"{name}_count"] >= MIN_BUCKET) & (usual[f"{name}_log_stddev"] >= MIN_LOG_STDDEV)


def _column_values(batch: Table, name: str, kind: type) -> Any:
    return batch.column(name).to_numpy().astype(kind)


def _baseline_values(batch: Table, baselines: Mapping[Day, Buckets | None]) -> Any:
    """What is usual for each trade, by statistic; NaN where nothing is known."""
    bucket = np.zeros(batch.num_rows, dtype=np.int64)
    known = np.ones(batch.num_rows, dtype=bool)
    for name, values in BUCKET_VALUES.items():
        places = _bucket_indexes(batch, name, values)
        known &= places >= 0
        bucket = bucket * len(values) + np.maximum(places, 0)
    symbols, dates = (
        batch.column(name).combine_chunks().dictionary_encode() for name in ("symbol", "trade_date")
    )
    days = symbols.indices.to_numpy().astype(np.int64) * len(dates.dictionary) + dates.indices.to_numpy()
    names, texts = symbols.dictionary.to_pylist(), dates.dictionary.to_pylist()
    codes, of_trade = np.unique(days, return_inverse=True)
    tables = np.full((len(codes), len(PLACES), len(STATISTICS)), np.nan)
    for place, code in enumerate(codes):
        symbol, date = divmod(int(code), len(texts))
        buckets = baselines.get((names[symbol], texts[date]))
        if buckets is not None:
            tables[place] = buckets
    found = tables[of_trade, bucket]
    found[~known] = np.nan
    return found


def _bucket_indexes(batch: Table, name: str, values: tuple[str, ...]) -> Any:
    """The place of each value of a column among ``values``; -1 for null and for any other value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return (
        pc.fill_null(pc.index_in(batch.column(name), value_set=pa.array(values)), -1)
        .to_numpy()
        .astype(np.int64)
    )

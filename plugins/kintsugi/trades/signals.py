"""The signals that look at one trade, as DataFrame functions; only Spark applications import this module.

The two that look at a minute of trades are in `windows`.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame  # noqa: TID253 - see above
from pyspark.sql import functions as F  # noqa: TID253, N812 - the name that Spark's own documentation uses

from kintsugi.trades.baselines import STATISTICS
from kintsugi.trades.identity import CANARY_SYMBOL

HIGH_VOLUME = "high_volume"
IV_JUMP = "iv_jump"
HIGH_VOLUME_Z = 1.2
MIN_CONTRACTS = 100
IV_JUMP_Z = 4.0
IV_JUMP_RATIO = 1.2
MIN_BUCKET = 5
BUCKET = ("symbol", "option_type", "delta_bin", "expiry_bin")


def with_usual(trades: DataFrame, baseline: DataFrame) -> DataFrame:
    """Adds what is usual in the trade's bucket, ``usual_<statistic>``; null where nothing is known.

    ``baseline``: `BASELINE_SCHEMA`, one row a bucket and validity (``as_of`` < trade date <= ``until``),
    so a trade is measured by files from before its day only. Volumes in contracts a day, iv as a fraction a year.
    """
    usual = F.broadcast(baseline.select([F.col(name).alias(f"usual_{name}") for name in baseline.columns]))
    condition = (F.col("trade_date") > F.col("usual_as_of")) & (F.col("trade_date") <= F.col("usual_until"))
    for key in BUCKET:
        condition = condition & (F.col(key) == F.col(f"usual_{key}"))
    return trades.join(usual, condition, "left").select(
        *trades.columns, *(f"usual_{name}" for name in STATISTICS)
    )


def with_high_volume(trades: DataFrame) -> DataFrame:
    """Adds ``high_volume``: how unusual the trade's size is, in standard deviations; null for a usual trade.

    In: the columns of `with_usual`, ``size`` in contracts. The score is the z-score of the size among the day's volumes
    of the bucket's contracts on a logarithmic scale, (ln size - ln median) / log_stddev: volumes are
    heavy-tailed, so their mean and standard deviation are ruled by the few busiest contracts and a z-score of
    the plain numbers is blind to all others. A signal from HIGH_VOLUME_Z on, for MIN_CONTRACTS or more
    (an underlying that hardly trades makes ten contracts look large), in a bucket of MIN_BUCKET or more.
    """
    score = (F.log("size") - F.log("usual_volume_median")) / F.col("usual_volume_log_stddev")
    hit = (
        _says_something("volume") & (score >= HIGH_VOLUME_Z) & (F.col("size") >= MIN_CONTRACTS)
    )  # fmt: skip
    return trades.withColumn(HIGH_VOLUME, F.when(hit, score))


def with_iv_jump(trades: DataFrame) -> DataFrame:
    """Adds ``iv_jump``: how far implied volatility lies above the usual, in standard deviations; null if it doesn't.

    In: the columns of `with_usual`, ``iv`` as a fraction a year, 0 where unknown, which says nothing. The score is
    (ln iv - ln median) / log_stddev of the bucket. A signal from IV_JUMP_Z on, if volatility is also
    IV_JUMP_RATIO times the usual or more: in a bucket of almost equal volatilities four deviations are no jump.
    A fall is no signal: it follows every announcement.
    """
    ratio = F.col("iv") / F.col("usual_iv_median")
    score = F.log(ratio) / F.col("usual_iv_log_stddev")
    hit = _says_something("iv") & (F.col("iv") > 0) & (score >= IV_JUMP_Z) & (ratio >= IV_JUMP_RATIO)
    return trades.withColumn(IV_JUMP, F.when(hit, score))


def with_signals(trades: DataFrame, baseline: DataFrame) -> DataFrame:
    """Adds the columns of both signals and of what is usual; every trade comes out once."""
    return with_iv_jump(with_high_volume(with_usual(trades, baseline)))


def _says_something(name: str) -> Column:
    """Whether a bucket is large and wide enough, and the trade may signal: no cancel and no canary."""
    return (
        (F.col(f"usual_{name}_count") >= MIN_BUCKET) & (F.col(f"usual_{name}_log_stddev") > 0)
        & ~F.col("canceled") & (F.col("symbol") != CANARY_SYMBOL)
    )  # fmt: skip

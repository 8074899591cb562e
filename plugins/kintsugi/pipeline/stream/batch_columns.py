"""The columns of a batch of stored trades, and the rows of derived tables that follow from one row of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kintsugi.pipeline.stream.derived_records import Cancel, MatchColumns
from kintsugi.pipeline.stream.derived_table_keys import Row, Scores
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from pyarrow import Table as ArrowTable

TRADE_SIGNALS = ("high_volume", "iv_jump")
BASELINE_OF_SIGNAL = {
    "high_volume": ("usual_volume_mean", "usual_volume_stddev"),
    "iv_jump": ("usual_iv_median", "usual_iv_stddev"),
}
UNUSUAL_NAMES = (
    "root", "expiration", "strike", "option_type", "size", "price", "premium", "side", "iv", "delta",
)  # fmt: skip
# The columns that the executors return of a stored trade, with their types for Spark.
RETURNED = (
    "trade_id string, symbol string, trade_date string, slot int, ts bigint, sequence bigint, root string, "
    "expiration string, strike double, option_type string, exchange int, size int, price double, "
    "condition int, canceled_condition int, iv double, delta double, premium double, side string, "
    "canceled boolean, expiry_bin string, delta_bin string, match bigint, stamp bigint, partition int, offset bigint"
)
# The columns that `DerivedTables.apply` needs: RETURNED and the scores that `signals.with_scores` adds.
DERIVING = (
    f"{RETURNED}, high_volume double, iv_jump double, usual_volume_mean double, usual_volume_stddev double, "
    "usual_iv_median double, usual_iv_stddev double"
)
RETURNED_NAMES, DERIVING_NAMES = (
    tuple(column.split()[0] for column in columns.split(", ")) for columns in (RETURNED, DERIVING)
)


def special_rows(batch: ArrowTable) -> list[dict[str, Any]]:
    """Return all columns of the few rows that are cancels or signal."""
    import pyarrow.compute as pc

    is_special = batch.column("canceled")
    for signal in TRADE_SIGNALS:
        is_special = pc.or_(is_special, pc.is_valid(batch.column(signal)))
    rows: list[dict[str, Any]] = batch.filter(is_special).to_pylist()
    return rows


def read_cancel(row: dict[str, Any]) -> Cancel:
    """Return the cancel in a row of a batch; which trade it cancels isn't known yet."""
    columns = MatchColumns.of(row, "canceled_condition")
    return Cancel(
        bytes.fromhex(row["trade_id"]), row["ts"], row["slot"], row["sequence"], columns, row["match"], None,
        condition=row["condition"],
    )  # fmt: skip


def unusual_rows(row: dict[str, Any]) -> list[Row]:
    """Return the rows of UNUSUAL_COLUMNS of a trade in a batch: one for each signal."""
    start = (row["trade_date"], row["symbol"], row["ts"], bytes.fromhex(row["trade_id"]))
    return [
        (*start, signal, row[signal], *(row[name] for name in (*UNUSUAL_NAMES, *BASELINE_OF_SIGNAL[signal])))
        for signal in TRADE_SIGNALS
        if row[signal] is not None and not row["canceled"] and row["symbol"] != SYNTHETIC_SYMBOL
    ]


def scores_by_signal(rows: Iterable[Row]) -> Scores | None:
    """Return what the column ``scores`` of a trade holds, from its rows of UNUSUAL_COLUMNS."""
    return {row[4]: (row[5], row[-2], row[-1]) for row in rows} or None

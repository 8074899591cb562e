"""The trades of a batch, by window, computed in arrays: the driver does this for every trade that is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise, starmap
from typing import TYPE_CHECKING, Any

import numpy as np

from kintsugi.pipeline.stream.derived_records import WindowKey
from kintsugi.pipeline.stream.flow_windows import (
    DELTA_UNIT,
    PRICE_UNIT,
    SHARES,
    SIGN,
    Sums,
    WindowFlow,
    window_start,
)
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table

Version = tuple[int, WindowFlow]  # the stamp of a trade's row, and what the trade adds to its window
INT64_SUMS = 2.0**62  # sums beyond this are computed with Python's integers
_KEY = ("symbol", "trade_date", "slot")


@dataclass(frozen=True, slots=True)
class WindowTrades:
    """The trades of a batch in one window, in the batch's order; no cancels and no synthetic trades.

    ``times``: milliseconds. ``matches``: match keys. ``versions``: of each trade the last version, by identity.
    ``sums``: of all rows, so they are right for the window only if no identity comes twice.
    """

    key: WindowKey
    identities: list[bytes]
    times: list[int]
    matches: list[int]
    versions: dict[bytes, Version]
    sums: Sums

    @property
    def is_distinct(self) -> bool:
        """Whether no identity comes twice."""
        return len(self.versions) == len(self.identities)


def group_by_window(batch: Table) -> Iterator[WindowTrades]:
    """Yield the trades of a batch (columns `batch_columns.DERIVING`) by window."""
    values: dict[str, Any] = {name: np.asarray(batch.column(name)) for name in _COLUMNS}
    values |= {f"{name}_code": _encode(batch.column(name)) for name in ("symbol", "trade_date")}
    counts = ~values["canceled"].astype(bool) & (values["symbol"] != SYNTHETIC_SYMBOL)
    if not counts.any():
        return
    values = {name: array[counts] for name, array in values.items()}
    values["window"] = window_start(values["ts"])
    order, bounds = _group_bounds(
        [values[name] for name in ("symbol_code", "trade_date_code", "slot", "window")]
    )
    values = {name: array[order] for name, array in values.items()}
    flows = _flow_arrays(values)
    sums = _sum_groups(flows, bounds[:-1])
    keys = [values[name][bounds[:-1]].tolist() for name in (*_KEY, "window")]
    identities = [bytes.fromhex(identity) for identity in values["trade_id"].tolist()]
    times, matches, stamps = (values[name].tolist() for name in ("ts", "match", "stamp"))
    trade_flows = list(starmap(WindowFlow, zip(*(array.tolist() for array in flows.values()), strict=True)))
    for number, (first, end) in enumerate(pairwise(bounds.tolist())):
        rows = slice(first, end)
        yield WindowTrades(
            WindowKey(*(column[number] for column in keys)),
            identities[rows], times[rows], matches[rows],
            _last_versions(identities[rows], stamps[rows], trade_flows[rows]),
            Sums(*(int(column[number]) for column in sums)),
        )  # fmt: skip


_COLUMNS = (
    *_KEY, "trade_id", "ts", "option_type", "size", "price", "delta", "side", "canceled", "match", "stamp",
)  # fmt: skip


def _encode(column: ChunkedArray) -> Any:
    """Return a number for each value of a column of strings: sorting numbers is faster."""
    return column.combine_chunks().dictionary_encode().indices.to_numpy()


def _group_bounds(columns: list[Any]) -> tuple[Any, Any]:
    """Return the stable order that groups equal rows, and the indexes in it where groups begin, and its end."""
    order = np.lexsort(columns)
    is_first = np.zeros(len(order), dtype=bool)
    is_first[0] = True
    for column in columns:
        is_first[1:] |= np.diff(column[order]) != 0
    return order, np.append(np.flatnonzero(is_first), len(order))


def _flow_arrays(values: dict[str, Any]) -> dict[str, Any]:
    """Return an array for each field of `WindowFlow`, with the values of `flow_windows.flow_of`."""
    sign = sum(np.where(values["side"] == side, value, 0) for side, value in SIGN.items())
    return {
        "window": values["window"], "call": values["option_type"] == "C", "sign": sign,
        "delta": _multiply(np.rint(values["delta"] * DELTA_UNIT), values["size"]),
        "premium": _multiply(np.rint(values["price"] * PRICE_UNIT), values["size"]),
    }  # fmt: skip


def _multiply(units: Any, size: Any) -> Any:
    """Return the shares' units of each trade; as Python's integers if a sum of them might not fit into 64 bits."""
    largest = float(np.abs(units).max()) * float(size.max()) * SHARES * len(units)
    kind = np.int64 if largest < INT64_SUMS else object
    return units.astype(np.int64).astype(kind) * size.astype(kind) * SHARES


def _sum_groups(flows: dict[str, Any], firsts: Any) -> list[Any]:
    """Return an array for each field of `Sums`, with a value for each group that begins at ``firsts``."""
    call, sign, delta, premium = (flows[name] for name in ("call", "sign", "delta", "premium"))
    signed = sign * delta
    is_bet, is_up = signed != 0, (sign > 0) == (delta > 0)
    arrays = {
        "trades": np.ones(len(sign), dtype=np.int64),
        "call_delta": np.where(call, signed, 0), "put_delta": np.where(call, 0, signed),
        "gross_delta": np.abs(signed),
        "up": (is_bet & is_up).astype(np.int64), "down": (is_bet & ~is_up).astype(np.int64),
        "bought": np.where(sign > 0, premium, 0), "sold": np.where(sign < 0, premium, 0),
        "unknown": np.where(sign == 0, premium, 0),
        "buys": (sign > 0).astype(np.int64), "sells": (sign < 0).astype(np.int64),
    }  # fmt: skip
    return [np.add.reduceat(arrays[field.name], firsts) for field in fields(Sums)]


def _last_versions(
    identities: list[bytes], stamps: list[int], flows: list[WindowFlow]
) -> dict[bytes, Version]:
    """Return the version with the greatest stamp of each trade; of equal stamps the first."""
    versions = dict(zip(identities, zip(stamps, flows, strict=True), strict=True))
    if len(versions) == len(identities):
        return versions
    versions = {}
    for identity, stamp, flow in zip(identities, stamps, flows, strict=True):
        if stamp > versions.setdefault(identity, (stamp, flow))[0]:
            versions[identity] = (stamp, flow)
    return versions

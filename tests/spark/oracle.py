"""What the pipeline must compute, a second time: from the data's description and decision 31, in pandas and decimals.

Nothing of the product is imported here. Prices, deltas and strikes stay decimals until a logarithm or a square root is
taken of them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

BUCKET = ["symbol", "option_type", "delta_bin", "expiry_bin"]
SHARES = 100
WINDOW_MS = 60_000


def expiry_bin(day: str, expiration: str) -> str:
    days = (date.fromisoformat(expiration) - date.fromisoformat(day)).days
    return "short" if days <= 30 else "medium" if days <= 60 else "long"


def delta_bin(delta: str) -> str:
    percent = abs(Decimal(delta)) * 100
    lower = min(int(percent // 20) * 20, 80)
    return f"{lower}-{lower + 20}"


def side(price: str, bid: str, ask: str) -> str:
    """The quote rule."""
    at, low, high = Decimal(price), Decimal(bid), Decimal(ask)
    if high <= 0 or low > high or at * 2 == low + high:
        return "unknown"
    if at >= high or (at > low and at * 2 > low + high):
        return "buy"
    return "sell"


def milliseconds(text: str) -> int:
    local = datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=ZoneInfo("America/New_York"))
    return round(local.timestamp() * 1000)


def trades(lines: Iterable[str]) -> pd.DataFrame:
    """One row a line of a trade file, and what follows from the line alone; ``taken_back``: it doesn't count."""
    rows = []
    for line in lines:
        c = line.split(",")
        rows.append(
            {
                "symbol": c[0], "trade_date": c[1][:10], "ts": milliseconds(c[1]), "sequence": int(c[2]),
                "contract": tuple(c[3:7]), "option_type": c[6], "exchange": c[7], "size": int(c[8]),
                "price": Decimal(c[9]), "condition": int(c[10]), "canceled_condition": int(c[11]), "iv": float(c[14]),
                "delta": Decimal(c[15]), "premium": int(c[8]) * Decimal(c[9]) * SHARES,
                "side": side(c[9], c[12], c[13]), "expiry_bin": expiry_bin(c[1][:10], c[4]),
                "delta_bin": delta_bin(c[15]),
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    frame["is_cancel"] = frame["condition"].between(40, 44)
    frame["taken_back"] = frame["is_cancel"]
    for cancel in frame[frame["is_cancel"]].itertuples():
        alike = frame[
            ~frame["is_cancel"] & (frame["sequence"] == cancel.sequence) & (frame["symbol"] == cancel.symbol)
            & (frame["exchange"] == cancel.exchange) & (frame["size"] == cancel.size)
            & (frame["price"] == cancel.price) & (frame["condition"] == cancel.canceled_condition)
            & (frame["contract"] == cancel.contract) & (frame["ts"] <= cancel.ts)
        ]  # fmt: skip
        assert len(alike) == 1, "the generator cancels one trade at a time"
        frame.loc[alike.index, "taken_back"] = True
    return frame


def baseline(file: Path) -> pd.DataFrame:
    """Statistics of an end-of-day file by bucket, and by the file's day (``as_of``)."""
    with file.open(newline="") as text:
        rows = [
            {
                "symbol": row["underlying_symbol"], "as_of": row["quote_date"], "option_type": row["option_type"],
                "delta_bin": delta_bin(row["delta_1545"]),
                "expiry_bin": expiry_bin(row["quote_date"], row["expiration"]),
                "volume": int(row["trade_volume"]), "iv": float(row["implied_volatility_1545"]),
            }
            for row in csv.DictReader(text)
        ]  # fmt: skip
    groups = pd.DataFrame(rows).groupby([*BUCKET, "as_of"])
    return pd.DataFrame(
        [
            {**dict(zip([*BUCKET, "as_of"], key, strict=True)), **_of("volume", group), **_of("iv", group)}
            for key, group in groups
        ]
    )


def _of(name: str, group: pd.DataFrame) -> dict[str, Any]:
    values = group.loc[group[name] > 0, name].astype(float)
    logs = values.map(math.log)
    constant = values.nunique() == 1 and len(values) > 1
    return {
        f"{name}_count": len(values), f"{name}_mean": values.mean(), f"{name}_median": values.median(),
        f"{name}_stddev": 0.0 if constant else values.std(ddof=1),
        f"{name}_log_stddev": 0.0 if constant else logs.std(ddof=1),
    }  # fmt: skip


def unusual(frame: pd.DataFrame, usual: pd.DataFrame) -> dict[tuple[int, str], float]:
    """The score of each trade (its row's number) that signals: decision 31's two signals of a trade."""
    joined = frame.reset_index().merge(usual, on=BUCKET, suffixes=("", "_usual"))
    found: dict[tuple[int, str], float] = {}
    row: Any
    for row in joined[~joined["taken_back"]].itertuples():
        assert row.as_of < row.trade_date
        if row.volume_count >= 5 and row.volume_log_stddev > 0 and row.size >= 100:
            score = (math.log(row.size) - math.log(row.volume_median)) / row.volume_log_stddev
            if score >= 1.2:
                found[row.index, "high_volume"] = score
        if row.iv_count >= 5 and row.iv_log_stddev > 0 and row.iv > 0:
            score = (math.log(row.iv) - math.log(row.iv_median)) / row.iv_log_stddev
            if score >= 4 and row.iv / row.iv_median >= 1.2:
                found[row.index, "iv_jump"] = score
    return found


def windows(frame: pd.DataFrame) -> dict[tuple[str, int], dict[str, Any]]:
    """The flow of each symbol and minute (start in milliseconds since 1970 UTC) over trades that count."""
    counted = frame[~frame["taken_back"]].copy()
    counted["start"] = counted["ts"] // WINDOW_MS * WINDOW_MS
    groups: Any = counted.groupby(["symbol", "start"])
    return {(str(symbol), int(start)): _window(group) for (symbol, start), group in groups}


def _window(group: pd.DataFrame) -> dict[str, Any]:
    calls = puts = gross = Decimal(0)
    premium = {"buy": Decimal(0), "sell": Decimal(0), "unknown": Decimal(0)}
    votes = {"up": 0, "down": 0, "buy": 0, "sell": 0, "unknown": 0}
    row: Any
    for row in group.itertuples():
        premium[row.side] += row.premium
        votes[row.side] += 1
        if row.side == "unknown":
            continue
        shares = row.delta * row.size * SHARES * (1 if row.side == "buy" else -1)
        calls, puts = (calls + shares, puts) if row.option_type == "C" else (calls, puts + shares)
        gross += abs(shares)
        votes["up"] += shares > 0
        votes["down"] += shares < 0
    direction, aggressor = _sign_test(votes["up"], votes["down"]), _sign_test(votes["buy"], votes["sell"])
    signals = []
    if abs(direction) >= 4.5 and direction * float(calls + puts) > 0:
        signals.append("imbalance")
    if aggressor >= 4.5 and premium["buy"] > premium["sell"]:
        signals.append("aggressor")
    return {
        "trades": len(group), "call_delta": float(calls), "put_delta": float(puts),
        "imbalance": float((calls + puts) / gross) if gross else 0.0, "imbalance_z": direction,
        "premium_bought": float(premium["buy"]), "premium_sold": float(premium["sell"]),
        "premium_unknown": float(premium["unknown"]), "aggressor_z": aggressor,
        "signal": ",".join(signals) or None,
    }  # fmt: skip


def _sign_test(one: int, other: int) -> float:
    return (one - other) / math.sqrt(one + other) if one + other else 0.0

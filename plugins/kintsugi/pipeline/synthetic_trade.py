"""Synthetic trades: one row of a reserved symbol, put into S3 and read from Cassandra, to prove the whole pipeline.

They are stored like any trade, but they never signal, and no reconciliation counts them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.settings import BUCKET, TOPIC
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.object_listing import NAME
from kintsugi.pipeline.row_parser import HEAD_COLUMNS, NEW_YORK, SLOT_MINUTES, Rejection, Trade, parse_trade
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client

PREFIX = "trades/canary/"
SEND_TIMEOUT_S = 30.0
POLL_S = 0.5
SLOTS_BACK = 8  # quarters of an hour in which a synthetic trade is looked for: the last two hours


def send_synthetic_trade(s3: S3Client, bucket: str = BUCKET, now: datetime | None = None) -> str:
    """Put a file with one synthetic trade into S3; returns its trade_id, for `has_arrived`."""
    trade, line, name = _make_synthetic_trade(now)
    header = ",".join(HEAD_COLUMNS)
    key = f"{PREFIX}{NAME}{trade.trade_date}_{trade.ts}_{name}.csv"  # sorts last, where the ingest lists new files
    s3.put_object(Bucket=bucket, Key=key, Body=f"{header}\n{line}\n".encode())
    return trade.trade_id


def send_synthetic_trade_to_kafka(bootstrap: list[str], now: datetime | None = None) -> str:
    """Send one synthetic trade to Kafka as the ingest would, for when S3 doesn't answer; returns its trade_id.

    Raises KintsugiError when the brokers don't acknowledge it.
    """
    import orjson

    trade, _, _ = _make_synthetic_trade(now)
    with open_producer(bootstrap) as kafka:
        kafka.send(TOPIC, key=trade.symbol.encode(), value=orjson.dumps(trade))
        kafka.flush(timeout=SEND_TIMEOUT_S)
    return trade.trade_id


def _make_synthetic_trade(now: datetime | None) -> tuple[Trade, str, uuid.UUID]:
    """Return a new synthetic trade, its line in a file, and a unique name."""
    at = (now or datetime.now(UTC)).astimezone(NEW_YORK)
    name = uuid.uuid4()
    line = synthetic_row(at, sequence=name.int % 10**15)
    trade = parse_trade(line)
    if isinstance(trade, Rejection):
        raise KintsugiError(f"the synthetic trade is not a valid trade: {trade.text}; its row was {line}")
    return trade, line, name


def synthetic_row(at: datetime, sequence: int) -> str:
    """Return the line of a synthetic trade at New York's time ``at``."""
    clock = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
    expiration = at.date() + timedelta(days=7)
    return (
        f"{SYNTHETIC_SYMBOL},{clock},{sequence},{SYNTHETIC_SYMBOL},{expiration},1.000,C,1,1,0.0100,18,0,0.0100,0.0200,"
        "0.1000,0.5000,1.0000,1.0100,0"
    )


def await_arrival(
    open_session: Callable[[], AbstractContextManager[Session]],
    trade_id: str,
    should_give_up: Callable[[float], bool],
) -> float:
    """Wait until Cassandra has the synthetic trade; returns the seconds waited.

    ``open_session`` returns a session of Cassandra for a ``with`` block. While Cassandra is overloaded or not up yet,
    the query is repeated. Raises StepFailed once ``should_give_up`` returns True for the seconds waited so far.
    """
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    started = time.monotonic()
    session: Session | None = None
    with ExitStack() as stack:
        while True:
            last_error = ""
            try:
                session = session or stack.enter_context(open_session())
                if has_arrived(session, trade_id):
                    return time.monotonic() - started
            except (DriverException, NoHostAvailable, KintsugiError) as error:
                last_error = f" (Cassandra didn't answer the last query: {error})"
            waited_s = time.monotonic() - started
            if should_give_up(waited_s):
                raise StepFailed(
                    f"the synthetic trade {trade_id} didn't reach Cassandra within {waited_s:.0f} s{last_error}; "
                    "look at ingest_trades and stream_trades"
                )
            time.sleep(POLL_S)


def has_arrived(session: Session, trade_id: str, now: datetime | None = None) -> bool:
    """Whether the synthetic trade can be read at LOCAL_QUORUM, among those of the last two hours."""
    at = (now or datetime.now(UTC)).astimezone(NEW_YORK)
    slots_by_day: dict[str, list[int]] = {}
    for back in range(SLOTS_BACK):
        time_of_slot = at - timedelta(minutes=SLOT_MINUTES * back)
        slot = (time_of_slot.hour * 60 + time_of_slot.minute) // SLOT_MINUTES
        slots_by_day.setdefault(f"{time_of_slot:%Y-%m-%d}", []).append(slot)
    for day, slots in slots_by_day.items():
        marks = ", ".join(["%s"] * len(slots))
        rows = session.execute(
            f"SELECT trade_id FROM trade WHERE symbol = %s AND trade_date = %s AND slot IN ({marks})",
            (SYNTHETIC_SYMBOL, day, *slots),
        )
        if any(row.trade_id.hex() == trade_id for row in rows):
            return True
    return False

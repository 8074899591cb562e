"""Canary trades: one row of a reserved symbol, in at S3's end and out of Cassandra, to prove the whole way.

They are stored like any trade but signal nothing, and no account counts them.
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
from kintsugi.pipeline.kafka_producer import producer
from kintsugi.pipeline.object_listing import NAME
from kintsugi.pipeline.row_parser import HEAD_COLUMNS, NEW_YORK, SLOT_MINUTES, Rejection, Trade, parse
from kintsugi.pipeline.trade_identity import CANARY_SYMBOL

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client

PREFIX = "trades/canary/"
SEND_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.5
SLOTS_BACK = 8  # a canary is looked for in the last two hours


def send(s3: S3Client, bucket: str = BUCKET, now: datetime | None = None) -> str:
    """Put a file with one canary trade into S3; returns its trade_id, to be asked for with `arrived`."""
    trade, line, name = _canary(now)
    header = ",".join(HEAD_COLUMNS)
    key = f"{PREFIX}{NAME}{trade.trade_date}_{trade.ts}_{name}.csv"  # sorts last, where new files are looked for
    s3.put_object(Bucket=bucket, Key=key, Body=f"{header}\n{line}\n".encode())
    return trade.trade_id


def send_to_kafka(bootstrap: list[str], now: datetime | None = None) -> str:
    """Send one canary trade as the ingest would, for when S3 is away; returns its trade_id.

    Raises KintsugiError when the brokers don't take it.
    """
    import orjson

    trade, _, _ = _canary(now)
    with producer(bootstrap) as kafka:
        kafka.send(TOPIC, key=trade.symbol.encode(), value=orjson.dumps(trade))
        kafka.flush(timeout=SEND_TIMEOUT_S)
    return trade.trade_id


def _canary(now: datetime | None) -> tuple[Trade, str, uuid.UUID]:
    """A fresh canary: the trade, its line in a file, and a name of its own."""
    at = (now or datetime.now(UTC)).astimezone(NEW_YORK)
    name = uuid.uuid4()
    line = row(at, sequence=name.int % 10**15)
    trade = parse(line)
    if isinstance(trade, Rejection):
        raise KintsugiError(f"the canary is no valid trade: {trade.text}; its row was {line}")
    return trade, line, name


def row(at: datetime, sequence: int) -> str:
    """The line of a canary trade at New York's time ``at``."""
    clock = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
    expiration = at.date() + timedelta(days=7)
    return (
        f"{CANARY_SYMBOL},{clock},{sequence},{CANARY_SYMBOL},{expiration},1.000,C,1,1,0.0100,18,0,0.0100,0.0200,"
        "0.1000,0.5000,1.0000,1.0100,0"
    )


def await_arrival(
    connected: Callable[[], AbstractContextManager[Session]], trade_id: str, give_up: Callable[[float], bool]
) -> float:
    """Wait for the canary at Cassandra's end; returns the seconds waited.

    ``connected`` gives a session of Cassandra for a ``with`` block. A ring that is busy, or not there yet because its
    nodes are being repaired as well, is looked at again. Raises StepFailed once ``give_up``, asked with the seconds
    waited so far, says so.
    """
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    started = time.monotonic()
    session: Session | None = None
    with ExitStack() as stack:
        while True:
            unanswered = ""
            try:
                session = session or stack.enter_context(connected())
                if arrived(session, trade_id):
                    return time.monotonic() - started
            except (DriverException, NoHostAvailable, KintsugiError) as error:
                unanswered = f" (Cassandra didn't answer the last look: {error})"
            waited_s = time.monotonic() - started
            if give_up(waited_s):
                raise StepFailed(
                    f"the canary {trade_id} didn't reach Cassandra within {waited_s:.0f} s{unanswered}; "
                    "look at ingest_trades and stream_trades"
                )
            time.sleep(LOOK_EVERY_S)


def arrived(session: Session, trade_id: str, now: datetime | None = None) -> bool:
    """Whether the canary can be read at LOCAL_QUORUM; looks at the last two hours."""
    at = (now or datetime.now(UTC)).astimezone(NEW_YORK)
    slots: dict[str, list[int]] = {}
    for back in range(SLOTS_BACK):
        then = at - timedelta(minutes=SLOT_MINUTES * back)
        slots.setdefault(f"{then:%Y-%m-%d}", []).append((then.hour * 60 + then.minute) // SLOT_MINUTES)
    for day, numbers in slots.items():
        marks = ", ".join(["%s"] * len(numbers))
        found = session.execute(
            f"SELECT trade_id FROM trade WHERE symbol = %s AND trade_date = %s AND slot IN ({marks})",
            (CANARY_SYMBOL, day, *numbers),
        )
        if any(item.trade_id.hex() == trade_id for item in found):
            return True
    return False

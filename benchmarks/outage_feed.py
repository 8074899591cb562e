"""Trades for a pipeline whose S3 goes away: into S3, and straight into Kafka while there is no S3.

The installation's own S3 server is a part of the control plane, so it is lost with it. Who delivers trades to a bucket
elsewhere goes on. This feed stands for both:

1. A part file of ``rows`` trades is due each ``period_s`` seconds. Usually it is put into S3, and the ingest reads it.
2. After `send_directly` each part is sent to Kafka as the ingest would send it: the same messages with the same keys.
   The part is kept.
3. `return_to_s3` puts every kept part into S3. The ingest sends its trades again, and their identities make them one
   row.

While trades are sent directly, nothing reads or makes a secret of the installation: a secret that was made then would
be in the place of the restored one. The certificate for Kafka is read before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import BUCKET, TOPIC
from kintsugi.pipeline.row_parser import TradeMessage, parse_message
from kintsugi.sampledata.generator import LivePart


class TradeProducer(Protocol):
    """What the feed needs of `kintsugi.pipeline.kafka_producer.Producer`."""

    def send(self, topic: str, *, value: bytes, key: bytes | None = None) -> None: ...

    def flush(self) -> None: ...


class Bucket(Protocol):
    """Makes a client of S3 that may deliver trades; called again after each failure."""

    def __call__(self) -> Any: ...


def read_messages(part: LivePart) -> list[TradeMessage]:
    """Return the messages of a part file, in its order; its header and rows that are no trades have none."""
    messages = (parse_message(line) for line in part.body.decode().splitlines()[1:])
    return [message for message in messages if isinstance(message, TradeMessage)]


class OutageFeed:
    """Delivers parts in a thread of its own while the block runs.

    ``delivered``: parts in S3. ``sent_directly``: parts that Kafka acknowledged while there was no S3.
    ``failures``: why a part could not be sent directly; it is kept for S3 all the same.
    """

    def __init__(
        self, parts: Iterator[LivePart], bucket: Bucket, producer: TradeProducer, *, period_s: float
    ) -> None:
        self._parts, self._bucket, self._producer, self._period_s = parts, bucket, producer, period_s
        self._client: Any = None
        self._kept: list[LivePart] = []
        self._directly = False
        self._turn = threading.Lock()  # a part is delivered as a whole in one way
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outage feed", daemon=True)
        self.delivered = self.sent_directly = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def send_directly(self) -> None:
        """Send parts to Kafka from now on. No call of S3 is under way when this returns."""
        with self._turn:
            self._directly, self._client = True, None

    def return_to_s3(self) -> None:
        """Put the kept parts and all later ones into S3; those that S3 refuses now are tried again."""
        with self._turn:
            self._directly = False
            self._deliver_kept()

    def deliver_part(self) -> None:
        """Deliver the next part."""
        part = next(self._parts)
        with self._turn:
            self._kept.append(part)
            if self._directly:
                self._send_to_kafka(part)
            else:
                self._deliver_kept()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self.deliver_part()
            # By the clock. Parts that a busy machine missed are not sent later.
            due = max(due + self._period_s, time.monotonic())

    def _deliver_kept(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            while self._kept:
                self._client = self._client or self._bucket()
                self._client.put_object(Bucket=BUCKET, Key=self._kept[0].key, Body=self._kept[0].body)
                del self._kept[0]
                self.delivered += 1
        except (BotoCoreError, ClientError):
            self._client = None

    def _send_to_kafka(self, part: LivePart) -> None:
        try:
            for message in read_messages(part):
                self._producer.send(TOPIC, key=message.symbol.encode(), value=message.value)
            self._producer.flush()
        except KintsugiError as error:
            self.failures.append(str(error))
        else:
            self.sent_directly += 1

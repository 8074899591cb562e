"""What the streaming driver reports on the dead letter topic: messages that are no trades, and messages that are gone.

The driver's node has no access to S3 or Postgres, so the watchdog of the control plane takes these letters there
(`kintsugi.notify.dead_letter_collector`). Letters of the ingest lie on the same topic without a key; these have the
key ``stream``. A batch that is repeated after a crash reports its messages again.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import DEAD_LETTER_TOPIC, TOPIC
from kintsugi.pipeline.consumer_offsets import LostRange
from kintsugi.pipeline.kafka_producer import Producer

log = logging.getLogger(__name__)

KEY = b"stream"
REFUSED = "refused"
LOST = "lost"
REFUSED_TIMEOUT_S = 10.0


class StreamLetters:
    """Sends the driver's letters; the producer is made when the first one is due."""

    def __init__(self, bootstrap: list[str]) -> None:
        self._bootstrap = bootstrap
        self._producer: Producer | None = None

    def refused(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Report messages that are no trades; ``rows`` have ``partition offset problem raw bytes``.

        Where Kafka doesn't take a letter it goes to the driver's log: such a message must not hold up the trades.
        """
        found = [_refused_letter(row) for row in rows]
        try:
            self._send(found, REFUSED_TIMEOUT_S)
        except KintsugiError as error:
            log.error(
                "%d messages are no trades, and their dead letters were not taken: %s", len(found), error
            )
            for letter in found:
                log.error("dead letter: %s", letter.decode())

    def lost(self, ranges: Iterable[LostRange]) -> None:
        """Report messages that Kafka deleted before they were stored; raises KintsugiError when it isn't taken."""
        now = datetime.now(UTC).isoformat()
        self._send(
            [
                _encode_letter(LOST, {"partition": r.partition, "first": r.first, "end": r.end, "at": now})
                for r in ranges
            ]
        )

    def _send(self, letters: list[bytes], timeout_s: float = 60.0) -> None:
        try:
            if self._producer is None:
                self._producer = Producer(self._bootstrap)
            for letter in letters:
                self._producer.send(DEAD_LETTER_TOPIC, key=KEY, value=letter)
            self._producer.flush(timeout_s)
        except KintsugiError:
            # A producer keeps its first failure, so the next letters need another one.
            if self._producer is not None:
                self._producer.close()
                self._producer = None
            raise


def _refused_letter(row: Mapping[str, Any]) -> bytes:
    raw = bytes(row["raw"] or b"")
    try:
        content = {"raw": raw.decode()}
    except UnicodeDecodeError:
        content = {"raw_base64": base64.b64encode(raw).decode()}
    where = {"partition": row["partition"], "offset": row["offset"], "bytes": row["bytes"] or 0}
    return _encode_letter(REFUSED, {**where, "reason": row["problem"], **content})


def _encode_letter(kind: str, content: Mapping[str, Any]) -> bytes:
    return json.dumps({"source": KEY.decode(), "kind": kind, "topic": TOPIC, **content}).encode()

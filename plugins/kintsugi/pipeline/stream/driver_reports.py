"""The streaming driver's letters on the dead letter topic: messages that aren't trades, and messages that are lost.

The driver's node has no access to S3 or Postgres, so the watchdog of the control plane stores these letters there
(`kintsugi.notify.dead_letter_collector`). They have the key ``stream``; letters of the ingest on the same topic have no
key. A batch that is repeated after a crash reports its messages again.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kintsugi.core.certificates import Principal
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
    """Sends the driver's letters; the producer is created for the first one."""

    def __init__(self, bootstrap: list[str]) -> None:
        self._bootstrap = bootstrap
        self._producer: Producer | None = None

    def report_refused(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Report messages that aren't trades; ``rows`` have ``partition offset problem raw bytes``.

        A letter that Kafka doesn't acknowledge is written to the driver's log: it must not delay the trades.
        """
        letters = [_refused_letter(row) for row in rows]
        try:
            self._send(letters, REFUSED_TIMEOUT_S)
        except KintsugiError as error:
            log.error(
                "%d messages are not trades, and Kafka did not acknowledge their dead letters: %s",
                len(letters),
                error,
            )
            for letter in letters:
                log.error("dead letter: %s", letter.decode())

    def report_lost(self, ranges: Iterable[LostRange]) -> None:
        """Report messages that Kafka deleted before they were stored; raises KintsugiError if that fails."""
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
                self._producer = Producer(self._bootstrap, Principal.STREAM)
            for letter in letters:
                self._producer.send(DEAD_LETTER_TOPIC, key=KEY, value=letter)
            self._producer.flush(timeout_s)
        except KintsugiError:
            # A producer keeps its first failure, so the next letters need a new one.
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

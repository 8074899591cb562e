"""Rejected rows, each kept with its raw line and the reason: as JSON lines in S3, beside the file's manifest."""

from __future__ import annotations

import base64
import json
import tempfile
from typing import IO, TYPE_CHECKING

from kintsugi.core.rejections import Rejection
from kintsugi.db.ledger_entry import file_id
from kintsugi.pipeline.ingest.file_reader import BadLine

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PREFIX = "dead-letter/"
# Of one file, on disk and in S3: 100,000 trade rows. A file with more has one cause, and still lies in S3 itself.
KEPT_BYTES = 64 << 20


def dead_letter(key: str, etag: str, number: int, raw: bytes, why: Rejection) -> bytes:
    """A dead letter as JSON: file, ETag, line, reason, its text, and the raw line (base64 when it isn't UTF-8)."""
    try:
        line = {"raw": raw.decode()}
    except UnicodeDecodeError:
        line = {"raw_base64": base64.b64encode(raw).decode()}
    return json.dumps(
        {"file": key, "etag": etag, "line": number, "reason": why.reason, "text": why.text, **line}
    ).encode()


class DeadLetters:
    """The dead letters of one file, on disk until they are uploaded; what exceeds ``limit`` bytes is only counted."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by upload
        self._left = limit
        self.dropped = 0

    def add(self, letter: bytes) -> bool:
        """Whether the letter is kept."""
        self._left -= len(letter) + 1
        if self._left < 0:
            self._left = -1
            self.dropped += 1
            return False
        self._file.write(letter + b"\n")
        return True

    def note(self) -> str | None:
        """What wasn't kept, as a sentence."""
        if not self.dropped:
            return None
        return f"{self.dropped} rejected rows are counted but have no dead letter: there were too many"

    def upload(self, s3: S3Client, bucket: str, name: str) -> None:
        """Put them into S3 as ``dead-letter/<name>.jsonl``, nothing without a letter; to be called once."""
        with self._file as file:
            if file.tell():
                file.seek(0)
                s3.upload_fileobj(file, bucket, f"{PREFIX}{name}.jsonl")


class RejectedRows:
    """The rejected rows of one end-of-day file, counted by reason (``counts``) and kept as dead letters.

    ``notes``: sentences about what was left out without being a row.
    """

    def __init__(self, key: str, etag: str) -> None:
        self._key, self._etag = key, etag
        self._letters = DeadLetters()
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def add(self, number: int, bad: BadLine) -> None:
        """Note the rejected line ``number``."""
        reason = bad.rejection.reason.value
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self._letters.add(dead_letter(self._key, self._etag, number, bad.raw, bad.rejection))

    def note(self) -> str | None:
        """What a manifest says of a file that is done."""
        dropped = self._letters.note()
        return "; ".join([*self.notes, *([dropped] if dropped else [])]) or None

    def upload(self, s3: S3Client, bucket: str) -> None:
        """Put the dead letters into S3, once."""
        self._letters.upload(s3, bucket, file_id(self._key, self._etag))

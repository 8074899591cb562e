"""Dead letters: rejected rows with their raw lines and reasons, as JSON lines in S3 beside the file's manifest."""

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
# Of one file, on disk and in S3: 100,000 trade rows. More rejected rows have one common cause, and the file is in S3.
KEPT_BYTES = 64 << 20


def dead_letter(key: str, etag: str, number: int, raw: bytes, rejection: Rejection) -> bytes:
    """Return a dead letter as JSON: file, ETag, line, reason, text, and the raw line (base64 when it isn't UTF-8)."""
    try:
        line = {"raw": raw.decode()}
    except UnicodeDecodeError:
        line = {"raw_base64": base64.b64encode(raw).decode()}
    return json.dumps(
        {
            "file": key,
            "etag": etag,
            "line": number,
            "reason": rejection.reason,
            "text": rejection.text,
            **line,
        }
    ).encode()


class DeadLetters:
    """The dead letters of one file, on disk until they are uploaded; beyond ``limit`` bytes they are only counted."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by upload
        self._left = limit
        self.dropped = 0

    def add(self, letter: bytes) -> bool:
        """Add a letter; returns whether it is kept."""
        self._left -= len(letter) + 1
        if self._left < 0:
            self._left = -1
            self.dropped += 1
            return False
        self._file.write(letter + b"\n")
        return True

    def note(self) -> str | None:
        """Say how many letters weren't kept; None if all were."""
        if not self.dropped:
            return None
        return (
            f"{self.dropped} rejected rows are counted but have no dead letter: too many rows were rejected"
        )

    def upload(self, s3: S3Client, bucket: str, name: str) -> None:
        """Put them into S3 as ``dead-letter/<name>.jsonl``, if there are any. May be called once."""
        with self._file as file:
            if file.tell():
                file.seek(0)
                s3.upload_fileobj(file, bucket, f"{PREFIX}{name}.jsonl")


class RejectedRows:
    """The rejected rows of one end-of-day file, counted by reason (``counts``) and kept as dead letters.

    ``notes``: sentences about content that was left out and isn't a row.
    """

    def __init__(self, key: str, etag: str) -> None:
        self._key, self._etag = key, etag
        self._letters = DeadLetters()
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def add(self, number: int, line: BadLine) -> None:
        """Add the rejected line ``number``."""
        reason = line.rejection.reason.value
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self._letters.add(dead_letter(self._key, self._etag, number, line.raw, line.rejection))

    def note(self) -> str | None:
        """Return the reason in the manifest of a file that is done: what was left out of it."""
        letters_note = self._letters.note()
        return "; ".join([*self.notes, *([letters_note] if letters_note else [])]) or None

    def upload(self, s3: S3Client, bucket: str) -> None:
        """Put the dead letters into S3. May be called once."""
        self._letters.upload(s3, bucket, file_id(self._key, self._etag))

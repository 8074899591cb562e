"""Validate a file: read it as the ingest and the baseline would, and report the result; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import InputError
from kintsugi.core.file_names import EOD_NAME, TRADES_NAME
from kintsugi.core.rejections import Rejection
from kintsugi.pipeline.ingest import end_of_day, trade_header
from kintsugi.pipeline.ingest.byte_sources import ByteSource, LocalSource, S3Source
from kintsugi.pipeline.ingest.decompression import archive_members
from kintsugi.pipeline.ingest.file_reader import BadLine, eod_rows, first_lines, trade_lines
from kintsugi.pipeline.row_parser import parse_message, parse_trade

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

S3_SCHEME = "s3://"
NOTES = 20


class FileKind(StrEnum):
    """The two products of the vendor that are ingested."""

    TRADES = "trades"
    EOD = "eod"


@dataclass(slots=True)
class FileReport:
    """The result for one file: read = accepted + the sum of ``rejected`` (counts by reason).

    ``kind``: None if it can't be identified. ``error``: why the whole file would fail. ``notes``: content that would
    be left out and isn't a row.
    """

    file: str
    kind: FileKind | None = None
    read: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every row would be accepted."""
        return self.error is None and not self.rejected

    def to_json(self) -> dict[str, Any]:
        """Return the counts, without the notes."""
        values = asdict(self)
        del values["notes"]
        return values


def validate_file(name: str, s3: Callable[[str], S3Client]) -> FileReport:
    """Validate a local file or ``s3://bucket/key``; ``s3`` returns a client for a bucket. Raises nothing."""
    report = FileReport(name, kind_by_name(name))
    try:
        _fill_report(_open_source(name, s3), report)
        if report.kind is FileKind.EOD and not report.accepted:
            report.error = "no row of it can be used"
    except InputError as error:
        report.error = str(error)
    except OSError as error:
        report.error = f"{name} can't be read: {error.strerror or error}"
    except Exception as error:  # noqa: BLE001 - S3 raises many classes, and the other files must still be validated
        report.error = f"{name} can't be read: {str(error) or type(error).__name__}"
    return report


def _open_source(name: str, s3: Callable[[str], S3Client]) -> ByteSource:
    if not name.startswith(S3_SCHEME):
        return LocalSource(Path(name))
    bucket, _, key = name.removeprefix(S3_SCHEME).partition("/")
    if not bucket or not key:
        raise InputError(f"{name} isn't the name of an object; write s3://bucket/key")
    client = s3(bucket)
    head = client.head_object(Bucket=bucket, Key=key)
    return S3Source(client, bucket, key, head["ETag"], head["ContentLength"])


def _fill_report(source: ByteSource, report: FileReport) -> None:
    """Fill in the report; raises InputError when the whole file is unusable, and what the source raises."""
    report.kind = kind_by_name(source.name) or kind_by_content(source)
    if report.kind is None:
        raise InputError(
            f"{source.name} has neither the name ({TRADES_NAME}…, {EOD_NAME}…) nor the header of a trade file or an "
            "end-of-day file; check whether it is one"
        )
    for reason in _row_outcomes(source, report):
        report.read += 1
        if reason is None:
            report.accepted += 1
        else:
            report.rejected[reason] = report.rejected.get(reason, 0) + 1


def _row_outcomes(source: ByteSource, report: FileReport) -> Iterator[str | None]:
    """Yield None for each row that would be accepted, and the reason for each that would be rejected."""
    if report.kind is FileKind.EOD:
        for _, row in eod_rows(source, report.notes.append):
            yield row.rejection.reason.value if isinstance(row, BadLine) else None
        return
    for _, line in trade_lines(source, report.notes.append):
        message = line.rejection if isinstance(line, BadLine) else parse_message(line)
        yield message.reason.value if isinstance(message, Rejection) else None


def format_report(report: FileReport) -> str:
    """Format the report for a person: a line for the file, and a line for each problem."""
    kind = report.kind or "unknown kind"
    verdict = "good" if report.is_good and report.read else "no row" if report.is_good else "NOT GOOD"
    lines = [
        f"{report.file}: {verdict} ({kind}; {report.read} read, {report.accepted} accepted, "
        f"{report.read - report.accepted} rejected)"
    ]
    lines += [f"  rejected: {count} for {reason}" for reason, count in sorted(report.rejected.items())]
    lines += [f"  note: {note}" for note in report.notes]
    lines += [f"  error: {report.error}"] if report.error else []
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def kind_by_name(name: str) -> FileKind | None:
    """Identify the kind of a file by the last part of its name."""
    base = name.replace("\\", "/").rpartition("/")[2]
    kinds = {TRADES_NAME: FileKind.TRADES, EOD_NAME: FileKind.EOD}
    return next((kind for prefix, kind in kinds.items() if base.startswith(prefix)), None)


def kind_by_content(source: ByteSource) -> FileKind | None:
    """Identify the kind of a file by the first line that is a header or a trade."""
    for member in islice(archive_members(source, "", lambda _: None), NOTES):
        for line in first_lines(member.pieces):
            if end_of_day.is_header(line) and end_of_day.header_fault(line) is None:
                return FileKind.EOD
            if trade_header.is_header(line) or not isinstance(parse_trade(line), Rejection):
                return FileKind.TRADES
    return None

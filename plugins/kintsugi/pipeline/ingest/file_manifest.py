"""The result of one ingested file: its manifest in S3, and the sums over several files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import BUCKET
from kintsugi.db.ledger_entry import FileState, Tally, file_id

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MANIFESTS = "manifests/"
COUNTS = ("read", "accepted", "duplicates", "produced")


def ingest_manifest_key(key: str, etag: str, replay: str = "") -> str:
    """Return the key of a file's manifest in S3; ``replay``: the name of the replay, empty for the ingest."""
    folder = f"{MANIFESTS}replay/{replay}/" if replay else MANIFESTS
    return f"{folder}{file_id(key, etag)}.json"


@dataclass(frozen=True, slots=True)
class FileIngestReport:
    """The result of one file: the content of its manifest.

    ``reason``: why it failed, or what was left out of a file that is done. ``replay``: the name of the replay; empty
    for the ingest.
    """

    key: str
    etag: str
    state: FileState
    tally: Tally
    reason: str | None = None
    replay: str = ""

    @property
    def manifest(self) -> str:
        """The key of its manifest in S3."""
        return ingest_manifest_key(self.key, self.etag, self.replay)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: key, etag, state, reason, replay and the counts."""
        return {
            "key": self.key,
            "etag": self.etag,
            "state": self.state,
            "reason": self.reason,
            "replay": self.replay,
            **asdict(self.tally),
        }


def sum_reports(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums over several reports (`FileIngestReport.to_dict`): files, failed, COUNTS, rejected by reason."""
    sums, rejected = Counter[str](), Counter[str]()
    for report in reports:
        sums["files"] += 1
        sums["failed"] += report["state"] == FileState.FAILED
        for name in COUNTS:
            sums[name] += report[name]
        rejected.update(report["rejected"])
    return {**{name: sums[name] for name in ("files", "failed", *COUNTS)}, "rejected": dict(rejected)}


def check_manifest(s3: S3Client, report: dict[str, Any], bucket: str = BUCKET) -> None:
    """Compare a report (`FileIngestReport.to_dict`) with its manifest in S3, and its counts with each other.

    Raises KintsugiError, which names the file and the count, when they differ.
    """
    key = ingest_manifest_key(report["key"], report["etag"], report.get("replay", ""))
    manifest = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    for name, value in report.items():
        if manifest.get(name) != value:
            raise KintsugiError(
                f"{report['key']}: {name} is {manifest.get(name)!r} in the manifest {key}, but {value!r} in the "
                "result of the ingest; check whether two ingests took the file at once"
            )
    is_balanced = (
        report["read"] == report["accepted"] + sum(report["rejected"].values())
        and report["produced"] == report["accepted"] - report["duplicates"]
    )
    if report["state"] == FileState.DONE and not is_balanced:
        raise KintsugiError(f"{report['key']}: the counts don't add up: {report}")

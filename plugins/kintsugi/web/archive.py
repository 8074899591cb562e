"""The archive of an incident in S3: Terraform's plan and the tails of the node's logs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kintsugi.core.connections import s3_client
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.operations import archived_logs

TAIL_LINES = 60
PLAN_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ArchivedFiles:
    """``plan``: Terraform's JSON, None when there was none. ``logs``: keys of the archived logs, by file name."""

    plan: dict[str, Any] | None
    logs: dict[str, str]


def read_archive(settings: Settings, incident: str) -> ArchivedFiles:
    """The archive of the incident; raises S3's errors."""
    s3, prefix = s3_client(settings, S3Purpose.PAGE), f"incidents/{incident}/"
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    keys = {item["Key"].removeprefix(prefix): item["Key"] for item in listed}
    plan = None
    if "plan.json" in keys:
        plan = json.loads(s3.get_object(Bucket=BUCKET, Key=keys["plan.json"])["Body"].read(PLAN_BYTES))
    logs = {name.removeprefix("logs/"): key for name, key in keys.items() if name.startswith("logs/")}
    return ArchivedFiles(plan, logs)


def log_tail(settings: Settings, incident: str, name: str) -> str:
    """The last lines of one archived log, ``name`` as in `ArchivedFiles.logs`; raises S3's errors."""
    key = f"incidents/{incident}/logs/{name}"
    body = (
        s3_client(settings, S3Purpose.PAGE)
        .get_object(Bucket=BUCKET, Key=key)["Body"]
        .read(archived_logs.PACKED_BYTES)
    )
    return last_lines(body)


def last_lines(body: bytes) -> str:
    """The last lines of a gzipped log; a truncated log gives its readable part. Pure."""
    return "\n".join(archived_logs.last_lines(body, TAIL_LINES))

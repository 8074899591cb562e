"""Deliver objects to S3. While S3 is unreachable they wait in a spool on the control plane.

The next step that reaches S3 delivers them. So no recovery and no roll-out waits for S3.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from kintsugi.core.s3_keys import writer_of
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.operations.context import Context

S3_AWAY = "s3-away"  # a mark on the control plane's disk: its time is that of the last failed delivery to S3
S3_AWAY_S = 30.0

log = logging.getLogger(__name__)


def deliver_to_s3(context: Context, key: str, body: bytes) -> None:
    """Put ``body`` under ``key`` into S3, or into the spool if S3 doesn't accept it within seconds.

    If S3 failed within the last S3_AWAY_S, for this process or another, it is not tried again.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    waiting = spool_directory(context.settings) / key
    mark = context.settings.control / S3_AWAY
    if not _is_recent(mark):
        try:
            context.s3_in_time(writer_of(key)).put_object(Bucket=BUCKET, Key=key, Body=body)
        except (BotoCoreError, ClientError) as error:
            log.warning("S3 did not accept %s (%s); it waits in the spool", key, error)
            mark.touch()
        else:
            waiting.unlink(missing_ok=True)  # else an older object of the same key would overwrite it later
            return
    waiting.parent.mkdir(parents=True, exist_ok=True)
    waiting.write_bytes(body)


def _is_recent(mark: Path) -> bool:
    try:
        return time.time() - mark.stat().st_mtime < S3_AWAY_S
    except FileNotFoundError:
        return False


def flush_spool(context: Context) -> None:
    """Deliver what waits in the spool; stops at the first failure and leaves the rest for the next call."""
    from botocore.exceptions import BotoCoreError, ClientError

    folder = spool_directory(context.settings)
    if _is_recent(context.settings.control / S3_AWAY):
        return
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            key = str(path.relative_to(folder))
            context.s3_in_time(writer_of(key)).put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        except (BotoCoreError, ClientError):
            return
        path.unlink(missing_ok=True)


def spool_directory(settings: Settings) -> Path:
    """Return the directory in which deliveries to S3 wait while it is unreachable."""
    return settings.control / "spool"

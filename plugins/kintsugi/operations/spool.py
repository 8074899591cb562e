"""What goes to S3, also while S3 is away: it waits in a spool on the control plane then.

The next step that finds S3 well delivers it. So no repair and no roll-out waits for S3.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from kintsugi.core.settings import BUCKET, Settings
from kintsugi.operations.context import Context

S3_AWAY = "s3-away"  # a mark on the control plane's disk: when S3 last failed to take something
S3_AWAY_S = 30.0

log = logging.getLogger(__name__)


def deliver(context: Context, key: str, body: bytes) -> None:
    """Put ``body`` under ``key``; into the spool when S3 doesn't take it within seconds.

    An S3 that did not answer a moment ago, to this process or another, isn't asked again on a repair's way.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    waiting = spool(context.settings) / key
    mark = context.settings.control / S3_AWAY
    if not _is_recent(mark):
        try:
            context.s3_in_time().put_object(Bucket=BUCKET, Key=key, Body=body)
        except (BotoCoreError, ClientError) as error:
            log.warning("S3 did not take %s (%s); it waits in the spool", key, error)
            mark.touch()
        else:
            waiting.unlink(missing_ok=True)  # an older one of the same key would be put over it
            return
    waiting.parent.mkdir(parents=True, exist_ok=True)
    waiting.write_bytes(body)


def _is_recent(mark: Path) -> bool:
    try:
        return time.time() - mark.stat().st_mtime < S3_AWAY_S
    except FileNotFoundError:
        return False


def flush_spool(context: Context) -> None:
    """Deliver what waits in the spool; stops at the first refusal and leaves the rest for the next time."""
    from botocore.exceptions import BotoCoreError, ClientError

    folder = spool(context.settings)
    if _is_recent(context.settings.control / S3_AWAY):
        return
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            key = str(path.relative_to(folder))
            context.s3_in_time().put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        except (BotoCoreError, ClientError):
            return
        path.unlink(missing_ok=True)


def spool(settings: Settings) -> Path:
    """Where deliveries to S3 wait while it is away."""
    return settings.control / "spool"

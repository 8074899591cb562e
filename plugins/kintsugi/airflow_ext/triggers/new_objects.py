"""Wait for objects in S3 that are not ingested yet: by the ledger for trades, by manifests for end-of-day files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from kintsugi.core.connections import reachable_sources, s3_client, store_dsn
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import load_settings
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline.object_listing import PendingFileScanner

log = logging.getLogger(__name__)

KINDS = ("trades", "eod")


def make_scan(kind: str) -> Callable[[], list[str]]:
    """Return a function that lists the files of this kind that wait for the ingest; it blocks.

    It returns trade files by key, end-of-day files as ``s3://bucket/key``.
    """
    from kintsugi.pipeline.stream import baselines  # numpy

    settings = load_settings()
    sources = reachable_sources(settings, S3Purpose.MONITOR)
    if kind == "eod":
        s3 = s3_client(settings, S3Purpose.MONITOR)
        return lambda: baselines.pending_uris(s3, sources)
    scanner = PendingFileScanner(sources, IngestLedger(store_dsn(settings)))
    return lambda: [file.key for file in scanner.scan()]


class NewObjectsTrigger(BaseTrigger):
    """Scans every ``interval`` seconds; its one event is ``{"keys": [...]}`` as soon as there is a new file.

    ``kind``: ``trades`` or ``eod``. If S3 or the database doesn't answer, it logs that once and goes on.
    """

    def __init__(self, *, kind: str, interval: float = 1.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it can be {' or '.join(KINDS)}")
        self.kind = kind
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the keyword arguments that create this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "kind": self.kind,
            "interval": self.interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Scan until there is a new file."""
        yield TriggerEvent({"keys": await self.wait()})  # type: ignore[no-untyped-call]

    async def wait(self) -> list[str]:
        """Return the keys of the new files, as soon as there are any."""
        scan: Callable[[], list[str]] | None = None
        last_error = ""
        while True:
            try:
                if scan is None:
                    scan = await asyncio.to_thread(make_scan, self.kind)
                keys = await asyncio.to_thread(scan)
                if keys:
                    return keys
                last_error = ""
            except Exception as error:  # noqa: BLE001 - whatever S3 or the store raise, they may be back soon
                if str(error) != last_error:
                    log.warning("cannot look for new %s files: %s; trying again", self.kind, error)
                last_error = str(error)
                scan = None  # its client may have a key of S3 that a rotation has replaced
            await asyncio.sleep(self.interval)

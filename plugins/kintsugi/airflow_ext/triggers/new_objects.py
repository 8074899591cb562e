"""Wait for objects in S3 that have not been taken in: by the ledger for trades, by manifests for the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from kintsugi.core.connections import reachable_sources, s3_client, store_dsn
from kintsugi.core.settings import load_settings
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline.object_listing import PendingFileScanner

log = logging.getLogger(__name__)

KINDS = ("trades", "eod")


def checker(kind: str) -> Callable[[], list[str]]:
    """A function that lists the files of this kind that wait to be taken in; it blocks.

    Trade files by key, end-of-day files as ``s3://bucket/key``.
    """
    from kintsugi.pipeline.stream import baselines  # numpy

    settings = load_settings()
    sources = reachable_sources(settings)
    if kind == "eod":
        s3 = s3_client(settings)
        return lambda: baselines.pending_uris(s3, sources)
    scanner = PendingFileScanner(sources, IngestLedger(store_dsn(settings)))
    return lambda: [file.key for file in scanner.scan()]


class NewObjectsTrigger(BaseTrigger):
    """Looks every ``interval`` seconds; its one event is ``{"keys": [...]}`` as soon as there is a new file.

    ``kind``: ``trades`` or ``eod``. When S3 or the store doesn't answer it says so once and goes on looking.
    """

    def __init__(self, *, kind: str, interval: float = 1.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it can be {' or '.join(KINDS)}")
        self.kind = kind
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the keyword arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "kind": self.kind,
            "interval": self.interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until there is a new file."""
        yield TriggerEvent({"keys": await self.wait()})  # type: ignore[no-untyped-call]

    async def wait(self) -> list[str]:
        """The keys of the new files, as soon as there are any."""
        look: Callable[[], list[str]] | None = None
        said = ""
        while True:
            try:
                if look is None:
                    look = await asyncio.to_thread(checker, self.kind)
                keys = await asyncio.to_thread(look)
                if keys:
                    return keys
                said = ""
            except Exception as error:  # noqa: BLE001 - whatever S3 or the store raise, they may be back soon
                if str(error) != said:
                    log.warning("cannot look for new %s files: %s; will look again", self.kind, error)
                said = str(error)
            await asyncio.sleep(self.interval)

"""The store's Postgres, as each of its users sees it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kintsugi.db.heartbeats import Heartbeats
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.outbox import Outbox
from kintsugi.db.store import Store
from tests.integration.db.conftest import Server, fresh_store, postgres, store

__all__ = ["fresh_store", "postgres", "store"]


@dataclass(frozen=True)
class Tables:
    """One database with all of it."""

    dsn: str
    store: Store
    ledger: IngestLedger
    outbox: Outbox
    heartbeats: Heartbeats


@pytest.fixture
def tables(postgres: Server, store: Store) -> Tables:
    dsn = store._dsn
    return Tables(dsn, store, IngestLedger(dsn), Outbox(dsn), Heartbeats(dsn))

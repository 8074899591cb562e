"""The store's Postgres, with the tables of the outbox and the heartbeats beside those of the store."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kintsugi.notify.heartbeat import Heartbeats
from kintsugi.notify.outbox import Outbox
from kintsugi.store import Store
from kintsugi.trades.ledger import Ledger
from tests.integration.store.conftest import Server, fresh_store, postgres, store

__all__ = ["fresh_store", "postgres", "store"]


@dataclass(frozen=True)
class Tables:
    """One database with all of it."""

    dsn: str
    store: Store
    ledger: Ledger
    outbox: Outbox
    heartbeats: Heartbeats


@pytest.fixture
def tables(postgres: Server, store: Store) -> Tables:
    dsn = store._dsn
    found = Tables(dsn, store, Ledger(dsn), Outbox(dsn), Heartbeats(dsn))
    found.ledger.migrate()
    found.outbox.ensure_tables()
    found.heartbeats.ensure_tables()
    return found

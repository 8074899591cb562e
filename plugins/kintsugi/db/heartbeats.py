"""Heartbeats of the watches: each trigger records every few seconds that it still watches its node.

They are sent by the loop that probes. So they stop if the triggerer is gone, if its event loop hangs, or if the node's
watch doesn't run. The watchdog, which runs outside Airflow, notices that they stop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection
from datetime import datetime

from kintsugi.core.connections import store_dsn
from kintsugi.core.settings import load_settings
from kintsugi.db.database import Database

EVERY_S = 10.0
FLOW = "flow"

log = logging.getLogger(__name__)


class Heartbeats(Database):
    """The last heartbeat of everything that is watched, by the clock of the database."""

    def record(self, names: Collection[str]) -> None:
        """Record that ``names`` are watched now."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO heartbeat (name, at) SELECT unnest(%s::text[]), clock_timestamp()"
                " ON CONFLICT (name) DO UPDATE SET at = excluded.at",
                (sorted(names),),
            )

    def last(self) -> tuple[dict[str, datetime], datetime]:
        """Return the time of the last heartbeat by name, and the database's current time; UTC."""
        with self.transaction() as connection:
            now = connection.execute("SELECT clock_timestamp() AS at").fetchone()
            rows = connection.execute("SELECT name, at FROM heartbeat").fetchall()
        assert now is not None
        return {row["name"]: row["at"] for row in rows}, now["at"]

    def forget(self, names: Collection[str]) -> None:
        """Expect no more heartbeats of these names: the fleet no longer has these nodes."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM heartbeat WHERE name = ANY(%s)", (sorted(names),))


class HeartbeatWriter:
    """Gathers the heartbeats of all watches of one process and writes them with one statement.

    ``record`` is called from the event loop and returns at once; a thread does the writing. An unreachable database is
    logged once and does not delay the watch.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._names: set[str] = set()
        self._written_s = -every_s
        self._writing: asyncio.Future[None] | None = None
        self._away = False

    def record(self, name: str) -> None:
        """Record that ``name`` is watched now."""
        # Outside the control plane (a test, a trigger run by hand) nobody expects heartbeats.
        if "AIRFLOW_CONN_KINTSUGI_STORE" not in os.environ:
            return
        self._names.add(name)
        now_s = time.monotonic()
        if now_s - self._written_s < self._every_s or (self._writing and not self._writing.done()):
            return
        names, self._names, self._written_s = self._names, set(), now_s
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, names)

    def _write(self, names: set[str]) -> None:
        try:
            Heartbeats(store_dsn(load_settings())).record(names)
        except Exception as error:  # noqa: BLE001 - the watch goes on whatever happens to its heartbeat
            if not self._away:
                log.warning("heartbeats can't be written: %s", error)
            self._away = True
        else:
            self._away = False


HEARTBEAT_WRITER = HeartbeatWriter()
"""The writer of this process."""

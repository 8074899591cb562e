"""Steps that the tests of the store share: open an incident, begin an attempt, let a lease run out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, Incident
from kintsugi.db.attempts import count_attempts
from kintsugi.db.store import Store

NOW = datetime.now(UTC)


def lapse(store: Store, node: str) -> None:
    """Let the lease on ``node`` run out, without waiting for it."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE lease SET expires_at = clock_timestamp() - interval '1s' WHERE node = %s", (node,)
        )


def opened(store: Store, node: str = "cassandra-1", holder: str = "run-1") -> tuple[Incident, int]:
    token = store.acquire_lease(node, holder, 60).token
    role = Role(node.rpartition("-")[0].replace("-", "_"))
    incident = store.open_incident(
        node,
        token,
        role=role,
        holder=holder,
        first_failed_at=NOW - timedelta(seconds=4),
        detected_at=NOW - timedelta(seconds=1),
    )
    return incident, token


def begin(store: Store, incident: Incident, token: int, action: Action, key: str = "1", **kw: Any) -> bool:
    kw.setdefault("refusals", lambda ledger: ())
    return store.begin_attempt(incident.id, token, action, key=key, reason="because", **kw)


def attempts_since(store: Store, node: str | None, since: datetime) -> int:
    with store.transaction() as connection:
        return count_attempts(connection, node, since)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start together; results or exceptions in order."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait(10)
        try:
            return call()
        except KintsugiError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))

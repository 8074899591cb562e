"""What the restored database says that is no longer true, and what it must say instead.

A backup is hours old. Its facts about the past stay; a fact about the present must not be acted upon. So after a
restore, before anything else reads the database:

1. Every lease is released, and its token rises by TOKENS. A process that got a token after the backup is refused.
2. Every open incident stays open, and its attempts are withdrawn: the recovery begins with the first escalation step.
   They still count in the repair budget. Its marks *ready* and *consistent* are removed. The sweep of abandoned
   incidents, or the node's watch, then observes the node and judges again. A pending data repair stays.
3. A roll-out under way counts as stopped. Nodes keep the release that is recorded for them.
4. A request for a recovery that was not delivered is given up: the watches have to see the failure themselves.
5. Fault injection is stopped: a person may have stopped it after the backup.
6. A replica repair under way has failed; it is not resumed. An ingest that waits does not wait any more.

Heartbeats stay: they are old, so the dead man's switch pages unless the watches come back. The ledger stays: what was
ingested after the backup is ingested again, and the identity of a trade makes it one row.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kintsugi.core.incident import ATTEMPT, WITHDRAWN
from kintsugi.db.database import Database
from kintsugi.db.incident_rows import append_entry, load_incident

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

TOKENS = 1_000_000
"""More tokens than a fleet takes between a backup and a restore."""

RESTORED = "restore"
"""Step name of the entry that a restore writes into the journal of each open incident."""


class RestoredFacts(Database):
    """The corrections of a database that was restored from a backup."""

    def correct_facts(self, backup: str) -> list[str]:
        """Correct what the backup ``backup`` can't know; returns the ids of the open incidents.

        May be repeated. The tables are current (`Database.migrate`).
        """
        reason = f"the control plane was restored from the backup {backup}"
        with self.transaction() as connection:
            connection.execute(
                "UPDATE lease SET holder = NULL, token = token + %s, expires_at = clock_timestamp()",
                (TOKENS,),
            )
            incidents = _judge_again(connection, reason)
            connection.execute(
                "UPDATE deployment SET state = 'stopped', reason = %s, ended_at = clock_timestamp()"
                " WHERE state = 'running'",
                (reason,),
            )
            connection.execute(
                "UPDATE outbox SET done_at = clock_timestamp(), error = %s"
                " WHERE done_at IS NULL AND kind = 'recovery'",
                (reason,),
            )
            connection.execute(
                "UPDATE comparison SET ended_at = clock_timestamp(), failure = %s WHERE ended_at IS NULL",
                (reason,),
            )
            connection.execute("DELETE FROM ingest_wait")
            _stop_chaos(connection, reason)
        return incidents


def _judge_again(connection: Rows, reason: str) -> list[str]:
    rows = connection.execute("SELECT id FROM incident WHERE closed_at IS NULL ORDER BY id").fetchall()
    for row in rows:
        incident = load_incident(connection, row["id"])
        for entry in incident.entries:
            if entry.step == ATTEMPT:
                key = str(entry.data.get("key"))
                data = {"attempt": key, "counts": True}
                append_entry(connection, incident.id, WITHDRAWN, reason, data, f"withdrawn {key}")
        message = f"{reason}; the node is observed and judged again"
        append_entry(connection, incident.id, RESTORED, message, None, f"{RESTORED} {reason}")
        connection.execute(
            "UPDATE incident SET redundant_at = NULL, consistent_at = NULL WHERE id = %s", (incident.id,)
        )
    return [row["id"] for row in rows]


def _stop_chaos(connection: Rows, reason: str) -> None:
    """Write the switch that `kintsugi.chaos.switch` reads; that room stands above this one."""
    from psycopg.types.json import Jsonb

    value = {"stopped": True, "user": "kintsugi", "reason": reason, "at": datetime.now(UTC).isoformat()}
    connection.execute(
        "INSERT INTO desired (key, value, version) VALUES ('chaos', %s, 1)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = desired.version + 1",
        (Jsonb(value),),
    )

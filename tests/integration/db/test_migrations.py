"""The list of migrations on a real Postgres: on an empty database, on those of earlier code, at once, and killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kintsugi.controlplane import launcher
from kintsugi.core.incident import Action
from kintsugi.db.flow_samples import FlowSamples
from kintsugi.db.heartbeats import Heartbeats
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.intake import IntakeStore
from kintsugi.db.ledger_entry import FileState
from kintsugi.db.migrations import MIGRATIONS
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.db.sent_offsets import SentOffsets
from kintsugi.db.store import Store, StoreUnavailable
from kintsugi.db.stream_record import LossState, StreamRecord
from tests.integration.db.conftest import Server, empty_database

OLD_DATABASE = (Path(__file__).parent / "database_of_3ad2920.sql").read_text()
OLD_MIGRATIONS = 4
ALL = list(range(1, len(MIGRATIONS) + 1))
FIRST_LEDGER = """
CREATE TABLE ledger_file (
    key text NOT NULL, etag text NOT NULL, sha text NOT NULL, size bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done', 'failed')), lines_done bigint NOT NULL DEFAULT 0,
    read bigint NOT NULL DEFAULT 0, accepted bigint NOT NULL DEFAULT 0, rejected jsonb NOT NULL DEFAULT '{}',
    duplicates bigint NOT NULL DEFAULT 0, produced bigint NOT NULL DEFAULT 0, reason text,
    started_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, PRIMARY KEY (key, etag)
);
INSERT INTO ledger_file (key, etag, sha, size, state) VALUES ('k', 'e', 's', 1, 'done');
"""
SECOND_LEDGER = """
ALTER TABLE ledger_file ADD COLUMN replay text NOT NULL DEFAULT '', ADD COLUMN stored bigint,
    ADD COLUMN reconciled_at timestamptz, DROP CONSTRAINT ledger_file_pkey;
CREATE UNIQUE INDEX ledger_file_once ON ledger_file (key, etag, replay);
INSERT INTO ledger_file (key, etag, sha, size, state)
    VALUES ('f', 'e', 's', 1, 'failed'), ('r', 'e', 's', 1, 'running');
"""


def execute(store: Store, script: str) -> None:
    with psycopg.connect(store._dsn) as connection:
        connection.execute(script.encode())


def described(store: Store) -> set[tuple[Any, ...]]:
    """The tables as Postgres describes them: columns, constraints and indexes, in no order."""
    with psycopg.connect(store._dsn) as connection:
        return {
            row
            for query in (
                "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity"
                " FROM information_schema.columns WHERE table_schema = 'public'",
                "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE connamespace = 'public'::regnamespace",
                "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            )
            for row in connection.execute(query)
        }


def contents(store: Store) -> dict[str, list[str]]:
    """Every row of every table as JSON, sorted, without the versions of the tables."""
    with psycopg.connect(store._dsn) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {
            table: sorted(
                str(sorted(row.items()))
                for (row,) in connection.execute(f"SELECT to_jsonb(t) FROM {table} t".encode())
            )
            for (table,) in tables
            if table != "kintsugi_schema"
        }


def versions(store: Store) -> list[int]:
    with psycopg.connect(store._dsn) as connection:
        return [row[0] for row in connection.execute("SELECT version FROM kintsugi_schema ORDER BY version")]


def process(code: str, dsn: str) -> subprocess.Popen[str]:
    """Python in a process of its own, with the store ``s``."""
    imports = (
        "import os, signal, sys\nfrom kintsugi.db import migrations\nfrom kintsugi.db.store import Store\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", f"{imports}s = Store(sys.argv[1])\n{code}", dsn],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def old(postgres: Server) -> Store:
    """A store on a database that earlier code made."""
    made = empty_database(postgres)
    execute(made, OLD_DATABASE)
    return made


def test_a_database_of_earlier_code_gets_the_same_tables_and_keeps_its_rows(old: Store, store: Store) -> None:
    before = contents(old)
    assert all(before.values()), "each table has a row, so that a lost one is noticed"
    old.migrate()
    assert contents(old) == before
    assert versions(old) == ALL
    assert described(old) == described(store)
    old.migrate()  # nothing more to do
    assert contents(old) == before


def test_an_upgraded_database_serves_each_of_its_users(old: Store) -> None:
    old.migrate()
    dsn = old._dsn
    (incident,) = old.read_incidents()
    assert [entry.data["action"] for entry in incident.entries] == [Action.PAGE]
    assert [(e.bucket, e.key, e.state) for e in IngestLedger(dsn).entries()] == [
        ("", "trades/2024-10-08/a.csv", FileState.DONE),
        ("acme", "trades/2024-10-08/b.csv", FileState.RUNNING),
    ]
    assert IntakeStore(dsn).sessions().keys() == {date(2024, 10, 8)}
    assert Outbox(dsn).find_due_kinds() == {MessageKind.PAGE}
    assert Heartbeats(dsn).last()[0].keys() == {"flow", "kafka-1"}
    assert [s.lag for s in FlowSamples(dsn).since(datetime(2024, 10, 8, tzinfo=UTC))] == [2]
    assert [loss.state for loss in StreamRecord(dsn).losses()] == [LossState.OPEN]
    assert [file.key for file in SentOffsets(dsn).files_in(0, 5, 9)] == ["trades/2024-10-08/a.csv"]


def test_tables_that_were_never_used_are_created(old: Store, store: Store) -> None:
    """Earlier code created a table at its first use, so an installation may lack any of them."""
    execute(
        old, "DROP TABLE outbox, heartbeat, flow_sample, stream_loss, ingest_wait, sent_offsets, ledger_file"
    )
    old.migrate()
    assert described(old) == described(store)


@pytest.mark.parametrize("script", [FIRST_LEDGER, FIRST_LEDGER + SECOND_LEDGER])
def test_a_ledger_of_an_earlier_release_gets_its_columns_and_keeps_its_rows(
    postgres: Server, store: Store, script: str
) -> None:
    earlier = empty_database(postgres)
    execute(earlier, script)
    earlier.migrate()
    assert described(earlier) == described(store)
    ledger = IntakeStore(earlier._dsn)
    assert {("k", FileState.DONE, "", None)} <= {
        (e.key, e.state, e.bucket, e.stored) for e in ledger.entries()
    }
    assert [entry.state for entry in ledger.by_key({"k"})["", "k"]] == [FileState.DONE]
    with ledger.claim("k", "e", 1) as none, ledger.claim("k", "e", 1, replay="r") as claim:
        assert none is None
        assert claim is not None
        with ledger.claim("k", "e", 1, replay="r") as second:
            assert second is None
    assert [e.state for e in ledger.replayed("r")] == [FileState.RUNNING]
    ledger.reconciled("k", "e", 7)
    assert ("k", 7) in [(e.key, e.stored) for e in ledger.entries()]
    assert ledger.unreconciled() == []
    assert ledger.report() is None
    assert ledger.redrive() == (["f"] if script != FIRST_LEDGER else [])
    ledger.write_sessions({date(2024, 10, 8): datetime(2024, 10, 8, 20, tzinfo=UTC)})
    assert ledger.sessions() == {date(2024, 10, 8): datetime(2024, 10, 8, 20, tzinfo=UTC)}


def test_two_processes_at_once_apply_each_migration_once(old: Store, tmp_path: Path) -> None:
    """Each waits for the other before its first migration: without the lock, both would apply all of them."""
    before = contents(old)
    code = (
        "import pathlib, time\n"
        "m = migrations.MIGRATIONS\n"
        "def late():\n"
        f"    meeting = pathlib.Path({str(tmp_path)!r})\n"
        "    (meeting / str(os.getpid())).touch()\n"
        "    deadline = time.monotonic() + 3\n"
        "    while len(list(meeting.iterdir())) < 2 and time.monotonic() < deadline:\n"
        "        time.sleep(0.05)\n"
        "    yield from m\n"
        "migrations.MIGRATIONS = late()\n"
        "s.migrate()"
    )
    running = [process(code, old._dsn) for _ in range(2)]
    assert [(one.communicate(timeout=60)[1], one.returncode) for one in running] == [("", 0)] * 2
    assert versions(old) == ALL
    assert contents(old) == before


def test_a_process_that_is_killed_in_the_middle_leaves_what_was_there_and_holds_nobody_up(old: Store) -> None:
    before, tables = contents(old), described(old)
    killed = process(
        "m = migrations.MIGRATIONS\n"
        "def some():\n"
        f"    yield from m[:{OLD_MIGRATIONS + 2}]\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "migrations.MIGRATIONS = some()\n"
        "s.migrate()",
        old._dsn,
    )
    assert (killed.communicate(timeout=60)[1], killed.returncode) == ("", -signal.SIGKILL)
    assert (versions(old), described(old)) == (ALL[:OLD_MIGRATIONS], tables)
    old.migrate()
    assert versions(old) == ALL
    assert contents(old) == before


def test_code_that_is_newer_than_the_tables_says_how_to_update_them(fresh_store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="make up"):
        StreamRecord(fresh_store._dsn).losses()


def test_airflows_components_update_the_tables_and_start_without_a_database_too(
    old: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launcher, "store_dsn", lambda _settings: "postgresql://kintsugi@127.34.0.1:1/none")
    launcher.update_tables()
    assert len(caplog.records) == 1
    monkeypatch.setattr(launcher, "store_dsn", lambda _settings: old._dsn)
    launcher.update_tables()
    assert versions(old) == ALL

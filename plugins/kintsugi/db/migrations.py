"""The tables of the database ``kintsugi``: one ordered list of migrations. Append new ones; never edit a released one.

1. `apply_migrations` takes the advisory lock MIGRATION, so one process at a time applies migrations.
2. It reads the applied versions from ``kintsugi_schema``, and applies the missing ones in order.
3. All of it is one transaction. A process that is killed leaves the tables as they were, and releases the lock.

Three places call it: ``make up`` before anything else uses the database, the watchdog before its loops, and each of
Airflow's components before it starts (`kintsugi.controlplane.launcher`). So tasks, triggers and the web page find the
tables. The streaming driver and Spark's executors don't use this database.

Migrations 5 to 7 may find their tables: until they existed, each module created its own tables at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

from kintsugi.db.advisory_locks import MIGRATION

if TYPE_CHECKING:
    from psycopg import Connection

_FIRST: LiteralString = """
CREATE TABLE lease (
    node        text PRIMARY KEY,
    holder      text,                     -- null: released
    token       bigint NOT NULL,          -- only ever rises
    expires_at  timestamptz NOT NULL
);

CREATE TABLE incident (
    id               text PRIMARY KEY,
    node             text NOT NULL,
    role             text NOT NULL,
    holder           text NOT NULL,
    opened_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    t0               timestamptz,
    first_failed_at  timestamptz NOT NULL,
    detected_at      timestamptz NOT NULL,
    redundant_at     timestamptz,
    consistent_at    timestamptz,
    closed_at        timestamptz,
    outcome          text,
    reason           text,
    CHECK ((closed_at IS NULL) = (outcome IS NULL))
);
-- One failure, one incident: a second recoverer continues the open one.
CREATE UNIQUE INDEX incident_one_open ON incident (node) WHERE closed_at IS NULL;
CREATE INDEX incident_newest ON incident (opened_at DESC);

CREATE TABLE incident_entry (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incident_id  text NOT NULL REFERENCES incident ON DELETE CASCADE,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    step         text NOT NULL,
    message      text NOT NULL,
    data         jsonb NOT NULL,
    key          text,                    -- the same key is written once
    UNIQUE (incident_id, key)
);
CREATE INDEX incident_entry_of ON incident_entry (incident_id, seq);
CREATE INDEX incident_entry_attempts ON incident_entry (at) WHERE step = 'attempt';

-- Data behind these nodes isn't whole yet: they were rebuilt, or left rows out of their commit log.
CREATE TABLE pending_repair (
    node         text PRIMARY KEY,
    role         text NOT NULL,
    incident_id  text NOT NULL,
    since        timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE fault (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node         text NOT NULL,
    kind         text NOT NULL,
    mode         text NOT NULL,
    run          text NOT NULL,
    t0           timestamptz NOT NULL,
    recorded_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (node, run, t0)
);

CREATE TABLE maintenance (
    scope   text PRIMARY KEY,             -- a node, or * for the fleet
    reason  text NOT NULL,
    "user"  text NOT NULL,
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    until   timestamptz                   -- null: until it is cleared
);

CREATE TABLE desired (
    key      text PRIMARY KEY,
    value    jsonb NOT NULL,
    version  bigint NOT NULL
);
"""

_RELEASES: LiteralString = """
CREATE TABLE release (
    digest         text PRIMARY KEY,
    origin         text NOT NULL,         -- what it was built from, for people
    built_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    known_good_at  timestamptz,           -- when its probes last held on every node
    bad_at         timestamptz,
    bad_reason     text,
    CHECK ((bad_at IS NULL) = (bad_reason IS NULL))
);

-- What a node was last configured from.
CREATE TABLE node_release (
    node    text PRIMARY KEY,
    digest  text NOT NULL REFERENCES release,
    since   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE deployment (
    id          text PRIMARY KEY,
    digest      text NOT NULL REFERENCES release,
    back_to     text REFERENCES release,  -- last known-good when it began
    state       text NOT NULL DEFAULT 'running',
    broken      text,                     -- the first bad probe: from here on there is only a way back
    reason      text,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    CHECK ((ended_at IS NULL) = (state = 'running'))
);
CREATE UNIQUE INDEX deployment_one_running ON deployment (state) WHERE state = 'running';

CREATE TABLE deployment_node (
    deployment  text NOT NULL REFERENCES deployment ON DELETE CASCADE,
    node        text NOT NULL,
    position    integer NOT NULL,
    changes     jsonb NOT NULL,           -- paths on the node that the release changes
    state       text NOT NULL,
    PRIMARY KEY (deployment, node)
);

CREATE TABLE deployment_entry (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    deployment  text NOT NULL REFERENCES deployment ON DELETE CASCADE,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    node        text,
    message     text NOT NULL
);
CREATE INDEX deployment_entry_of ON deployment_entry (deployment, seq);

-- A file of a node that isn't what the node's release says.
CREATE TABLE drift (
    node          text NOT NULL,
    path          text NOT NULL,
    digest        text NOT NULL,
    found_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    gone_at       timestamptz,            -- null: still so when last looked at
    put_right     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (node, path, found_at)
);
CREATE UNIQUE INDEX drift_open ON drift (node, path) WHERE gone_at IS NULL;
"""

_FLAGS_BY_USER: LiteralString = """
ALTER TABLE maintenance DROP CONSTRAINT maintenance_pkey, ADD PRIMARY KEY (scope, "user");
"""

_COMPARISONS: LiteralString = """
CREATE TABLE comparison (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node      text NOT NULL,
    by        text NOT NULL,               -- an incident, or a run of a DAG
    began_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at  timestamptz,                 -- null: under way, or broken off with its process
    differed  integer,                     -- ranges that weren't as a replica's, and were repaired
    failure   text
);
CREATE INDEX comparison_newest ON comparison (node, id DESC);
"""

_LEDGER: LiteralString = """
CREATE TABLE IF NOT EXISTS ledger_file (
    key          text NOT NULL,
    etag         text NOT NULL,
    sha          text NOT NULL,
    size         bigint NOT NULL,
    state        text NOT NULL,
    lines_done   bigint NOT NULL DEFAULT 0,
    read         bigint NOT NULL DEFAULT 0,
    accepted     bigint NOT NULL DEFAULT 0,
    rejected     jsonb NOT NULL DEFAULT '{}',
    duplicates   bigint NOT NULL DEFAULT 0,
    produced     bigint NOT NULL DEFAULT 0,
    reason       text,
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
-- The table may be of any earlier release.
ALTER TABLE ledger_file
    ADD COLUMN IF NOT EXISTS replay text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS stored bigint,
    ADD COLUMN IF NOT EXISTS reconciled_at timestamptz,
    ADD COLUMN IF NOT EXISTS bucket text NOT NULL DEFAULT '',   -- empty for the installation's own
    ADD COLUMN IF NOT EXISTS modified timestamptz,   -- S3's time of this content; later: delivered again
    ADD COLUMN IF NOT EXISTS attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS failing_since timestamptz,
    ADD COLUMN IF NOT EXISTS retry_at timestamptz,
    ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS paged_at timestamptz,   -- when a page about this file was put into the outbox
    DROP CONSTRAINT IF EXISTS ledger_file_pkey,
    DROP CONSTRAINT IF EXISTS ledger_file_state_check,
    ADD CONSTRAINT ledger_file_state_check CHECK (state IN ('running', 'done', 'failed', 'vanished'));
-- The same key in two buckets is two files.
CREATE UNIQUE INDEX IF NOT EXISTS ledger_file_delivery ON ledger_file (bucket, key, etag, replay);
DROP INDEX IF EXISTS ledger_file_once;

-- One row: the newest intake report.
CREATE TABLE IF NOT EXISTS intake_report (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    at      timestamptz NOT NULL,
    report  jsonb NOT NULL
);

-- The sessions of the exchange around today.
CREATE TABLE IF NOT EXISTS exchange_session (
    day    date PRIMARY KEY,
    close  timestamptz NOT NULL
);
"""

_OUTBOX: LiteralString = """
CREATE TABLE IF NOT EXISTS outbox (
    key         text PRIMARY KEY,
    kind        text NOT NULL,
    body        jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL,
    attempts    integer NOT NULL DEFAULT 0,
    receipt     jsonb NOT NULL DEFAULT '{}',   -- what the receivers answered
    done_at     timestamptz,
    error       text                           -- of the last attempt; beside done_at: it was given up
);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due_at) WHERE done_at IS NULL;

CREATE TABLE IF NOT EXISTS heartbeat (
    name  text PRIMARY KEY,                    -- a node, or "flow"
    at    timestamptz NOT NULL
);
"""

_STREAM: LiteralString = """
CREATE TABLE IF NOT EXISTS flow_sample (
    at         timestamptz PRIMARY KEY,
    running    boolean,                        -- null, here and below: unknown
    committed  bigint,
    produced   bigint
);

-- Messages that Kafka deleted before they were stored.
CREATE TABLE IF NOT EXISTS stream_loss (
    partition    integer NOT NULL,
    first        bigint NOT NULL,
    ends         bigint NOT NULL,              -- the offset after the last
    recorded_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    state        text NOT NULL DEFAULT 'open',
    files        jsonb NOT NULL DEFAULT '[]',  -- keys that were sent again for it
    said         text NOT NULL DEFAULT '',
    settled_at   timestamptz,
    PRIMARY KEY (partition, first, recorded_at)
);

-- Messages that were no trades.
CREATE TABLE IF NOT EXISTS refused_message (
    day       date NOT NULL,
    reason    text NOT NULL,
    messages  bigint NOT NULL,
    PRIMARY KEY (day, reason)
);

-- Up to where the dead letter topic was read.
CREATE TABLE IF NOT EXISTS letter_position (
    partition  integer PRIMARY KEY,
    next       bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS ingest_wait (
    name   text PRIMARY KEY,                   -- ingest, or a replay's name
    key    text NOT NULL,                      -- of the file that waits
    why    text NOT NULL,
    since  timestamptz NOT NULL,
    at     timestamptz NOT NULL
);

-- Where each file's messages lie on the topic.
CREATE TABLE IF NOT EXISTS sent_offsets (
    key        text NOT NULL,
    etag       text NOT NULL,
    replay     text NOT NULL,
    partition  integer NOT NULL,
    first      bigint NOT NULL,
    ends       bigint NOT NULL,                -- the offset after the last
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (key, etag, replay, partition)
);
CREATE INDEX IF NOT EXISTS sent_offsets_where ON sent_offsets (partition, first, ends);
"""

MIGRATIONS: tuple[LiteralString, ...] = (
    _FIRST,
    _RELEASES,
    _FLAGS_BY_USER,
    _COMPARISONS,
    _LEDGER,
    _OUTBOX,
    _STREAM,
)


def apply_migrations(connection: Connection[Any]) -> None:
    """Apply the migrations that the database lacks; does nothing if there are none. Several processes may call it."""
    from psycopg.rows import scalar_row

    with connection.transaction(), connection.cursor(row_factory=scalar_row) as cursor:
        # Another process may apply migrations for longer than a normal statement may take.
        cursor.execute("SET LOCAL statement_timeout = '60s'")
        cursor.execute("SET LOCAL lock_timeout = '60s'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION,))
        # Whoever uses a table that is altered waits behind this process, so it must not wait long for the table.
        cursor.execute("SET LOCAL lock_timeout = '5s'")
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS kintsugi_schema ("
            "version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        applied = set(cursor.execute("SELECT version FROM kintsugi_schema"))
        for version, statements in enumerate(MIGRATIONS, start=1):
            if version not in applied:
                cursor.execute(statements)
                cursor.execute("INSERT INTO kintsugi_schema (version) VALUES (%s)", (version,))

"""The tables of the store, as a list of migrations: append, never edit one that was released."""

from typing import LiteralString

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

-- Data behind these nodes isn't whole again since they were rebuilt.
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

MIGRATIONS: tuple[LiteralString, ...] = (_FIRST,)

"""The tables of the database, as a list of migrations: append new ones, never edit a released one."""

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

_FLAGS_BY_USER = """
ALTER TABLE maintenance DROP CONSTRAINT maintenance_pkey, ADD PRIMARY KEY (scope, "user");
"""

_COMPARISONS = """
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

MIGRATIONS: tuple[LiteralString, ...] = (_FIRST, _RELEASES, _FLAGS_BY_USER, _COMPARISONS)

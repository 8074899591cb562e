-- A database as the code of commit 3ad2920 made it (pg_dump --inserts), when each module created its own tables.
CREATE TABLE public.comparison (
    id bigint NOT NULL,
    node text NOT NULL,
    by text NOT NULL,
    began_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    differed integer,
    failure text
);
ALTER TABLE public.comparison ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.comparison_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.deployment (
    id text NOT NULL,
    digest text NOT NULL,
    back_to text,
    state text DEFAULT 'running'::text NOT NULL,
    broken text,
    reason text,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT deployment_check CHECK (((ended_at IS NULL) = (state = 'running'::text)))
);
CREATE TABLE public.deployment_entry (
    seq bigint NOT NULL,
    deployment text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    node text,
    message text NOT NULL
);
ALTER TABLE public.deployment_entry ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.deployment_entry_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.deployment_node (
    deployment text NOT NULL,
    node text NOT NULL,
    "position" integer NOT NULL,
    changes jsonb NOT NULL,
    state text NOT NULL
);
CREATE TABLE public.desired (
    key text NOT NULL,
    value jsonb NOT NULL,
    version bigint NOT NULL
);
CREATE TABLE public.drift (
    node text NOT NULL,
    path text NOT NULL,
    digest text NOT NULL,
    found_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    gone_at timestamp with time zone,
    put_right boolean DEFAULT false NOT NULL
);
CREATE TABLE public.exchange_session (
    day date NOT NULL,
    close timestamp with time zone NOT NULL
);
CREATE TABLE public.fault (
    id bigint NOT NULL,
    node text NOT NULL,
    kind text NOT NULL,
    mode text NOT NULL,
    run text NOT NULL,
    t0 timestamp with time zone NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
ALTER TABLE public.fault ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.fault_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.flow_sample (
    at timestamp with time zone NOT NULL,
    running boolean,
    committed bigint,
    produced bigint
);
CREATE TABLE public.heartbeat (
    name text NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.incident (
    id text NOT NULL,
    node text NOT NULL,
    role text NOT NULL,
    holder text NOT NULL,
    opened_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    t0 timestamp with time zone,
    first_failed_at timestamp with time zone NOT NULL,
    detected_at timestamp with time zone NOT NULL,
    redundant_at timestamp with time zone,
    consistent_at timestamp with time zone,
    closed_at timestamp with time zone,
    outcome text,
    reason text,
    CONSTRAINT incident_check CHECK (((closed_at IS NULL) = (outcome IS NULL)))
);
CREATE TABLE public.incident_entry (
    seq bigint NOT NULL,
    incident_id text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    step text NOT NULL,
    message text NOT NULL,
    data jsonb NOT NULL,
    key text
);
ALTER TABLE public.incident_entry ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.incident_entry_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.ingest_wait (
    name text NOT NULL,
    key text NOT NULL,
    why text NOT NULL,
    since timestamp with time zone NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.intake_report (
    one boolean DEFAULT true NOT NULL,
    at timestamp with time zone NOT NULL,
    report jsonb NOT NULL,
    CONSTRAINT intake_report_one_check CHECK (one)
);
CREATE TABLE public.kintsugi_schema (
    version integer NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.lease (
    node text NOT NULL,
    holder text,
    token bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL
);
CREATE TABLE public.ledger_file (
    key text NOT NULL,
    etag text NOT NULL,
    sha text NOT NULL,
    size bigint NOT NULL,
    state text NOT NULL,
    lines_done bigint DEFAULT 0 NOT NULL,
    read bigint DEFAULT 0 NOT NULL,
    accepted bigint DEFAULT 0 NOT NULL,
    rejected jsonb DEFAULT '{}'::jsonb NOT NULL,
    duplicates bigint DEFAULT 0 NOT NULL,
    produced bigint DEFAULT 0 NOT NULL,
    reason text,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    replay text DEFAULT ''::text NOT NULL,
    stored bigint,
    reconciled_at timestamp with time zone,
    bucket text DEFAULT ''::text NOT NULL,
    modified timestamp with time zone,
    attempts integer DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    retry_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    paged_at timestamp with time zone,
    CONSTRAINT ledger_file_state_check CHECK ((state = ANY (ARRAY['running'::text, 'done'::text, 'failed'::text, 'vanished'::text])))
);
COMMENT ON TABLE public.ledger_file IS 'ef90081cdd8c3566635d7666dc6ba09d6f91b89202706de794e61eb5723439fe';
CREATE TABLE public.letter_position (
    partition integer NOT NULL,
    next bigint NOT NULL
);
CREATE TABLE public.maintenance (
    scope text NOT NULL,
    reason text NOT NULL,
    "user" text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    until timestamp with time zone
);
CREATE TABLE public.node_release (
    node text NOT NULL,
    digest text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.outbox (
    key text NOT NULL,
    kind text NOT NULL,
    body jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    due_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    receipt jsonb DEFAULT '{}'::jsonb NOT NULL,
    done_at timestamp with time zone,
    error text
);
CREATE TABLE public.pending_repair (
    node text NOT NULL,
    role text NOT NULL,
    incident_id text NOT NULL,
    since timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.refused_message (
    day date NOT NULL,
    reason text NOT NULL,
    messages bigint NOT NULL
);
CREATE TABLE public.release (
    digest text NOT NULL,
    origin text NOT NULL,
    built_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    known_good_at timestamp with time zone,
    bad_at timestamp with time zone,
    bad_reason text,
    CONSTRAINT release_check CHECK (((bad_at IS NULL) = (bad_reason IS NULL)))
);
CREATE TABLE public.sent_offsets (
    key text NOT NULL,
    etag text NOT NULL,
    replay text NOT NULL,
    partition integer NOT NULL,
    first bigint NOT NULL,
    ends bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);
CREATE TABLE public.stream_loss (
    partition integer NOT NULL,
    first bigint NOT NULL,
    ends bigint NOT NULL,
    recorded_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    state text DEFAULT 'open'::text NOT NULL,
    files jsonb DEFAULT '[]'::jsonb NOT NULL,
    said text DEFAULT ''::text NOT NULL,
    settled_at timestamp with time zone
);
INSERT INTO public.comparison OVERRIDING SYSTEM VALUE VALUES (1, 'cassandra-1', 'anti_entropy', '2026-11-29 07:25:33.586677+00', '2026-11-29 07:25:33.597112+00', 3, NULL);
INSERT INTO public.deployment VALUES ('d1', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', NULL, 'running', NULL, NULL, '2026-11-29 07:25:33.54366+00', NULL);
INSERT INTO public.deployment_entry OVERRIDING SYSTEM VALUE VALUES (1, 'd1', '2026-11-29 07:25:33.565135+00', NULL, 'began');
INSERT INTO public.deployment_node VALUES ('d1', 'kafka-1', 0, '["/etc/x"]', 'waiting');
INSERT INTO public.desired VALUES ('stream_trades', '{"running": true}', 1);
INSERT INTO public.drift VALUES ('kafka-1', '/etc/y', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '2026-11-29 07:25:33.576916+00', '2026-11-29 07:25:33.576917+00', NULL, false);
INSERT INTO public.exchange_session VALUES ('2024-10-08', '2024-10-08 14:30:00+00');
INSERT INTO public.fault OVERRIDING SYSTEM VALUE VALUES (1, 'kafka-1', 'kill', 'reset', 'run', '2024-10-08 14:30:00+00', '2026-11-29 07:25:33.492313+00');
INSERT INTO public.flow_sample VALUES ('2024-10-08 14:30:00+00', true, 10, 12);
INSERT INTO public.heartbeat VALUES ('flow', '2026-11-29 07:25:33.74362+00');
INSERT INTO public.heartbeat VALUES ('kafka-1', '2026-11-29 07:25:33.743964+00');
INSERT INTO public.incident VALUES ('kafka-1-20261129T072533Z-f2c6', 'kafka-1', 'kafka', 'run-1', '2026-11-29 07:25:33.443616+00', '2024-10-08 14:30:00+00', '2024-10-08 14:30:00+00', '2024-10-08 14:30:03+00', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.incident_entry OVERRIDING SYSTEM VALUE VALUES (1, 'kafka-1-20261129T072533Z-f2c6', '2026-11-29 07:25:33.465343+00', 'attempt', 'the volume is lost', '{"key": "1", "action": "page", "pending_before": false}', '1');
INSERT INTO public.ingest_wait VALUES ('ingest', 'trades/b.csv', 'the topic is full', '2024-10-08 14:30:00+00', '2026-11-29 07:25:33.822802+00');
INSERT INTO public.intake_report VALUES (true, '2024-10-08 14:30:00+00', '{"files": []}');
INSERT INTO public.kintsugi_schema VALUES (1, '2026-11-29 07:25:33.385631+00');
INSERT INTO public.kintsugi_schema VALUES (2, '2026-11-29 07:25:33.411588+00');
INSERT INTO public.kintsugi_schema VALUES (3, '2026-11-29 07:25:33.413758+00');
INSERT INTO public.kintsugi_schema VALUES (4, '2026-11-29 07:25:33.419289+00');
INSERT INTO public.lease VALUES ('kafka-1', 'run-1', 1, '2026-11-29 07:30:33.460269+00');
INSERT INTO public.ledger_file VALUES ('trades/2024-10-08/a.csv', 'etag1', '77ceacf7c27758065553a133e73d734f', 100, 'done', 10, 9, 8, '{"bad_price": 1}', 1, 7, NULL, '2026-11-29 07:25:33.628947+00', '2026-11-29 07:25:33.630893+00', '', NULL, NULL, '', '2024-10-08 14:30:00+00', 0, NULL, NULL, '2026-11-29 07:25:33.630893+00', NULL);
INSERT INTO public.ledger_file VALUES ('trades/2024-10-08/b.csv', 'etag2', '7e5bc3b3d08cf0daff2894c3fdc0ce5c', 50, 'running', 0, 0, 0, '{}', 0, 0, 'S3 doesn''t answer', '2026-11-29 07:25:33.650797+00', NULL, '', NULL, NULL, 'acme', NULL, 1, '2026-11-29 07:25:33.652364+00', '2026-11-29 07:25:38.652364+00', '2026-11-29 07:25:33.652364+00', NULL);
INSERT INTO public.ledger_file VALUES ('trades/2024-10-08/a.csv', 'etag1', '77ceacf7c27758065553a133e73d734f', 100, 'done', 10, 9, 8, '{"bad_price": 1}', 1, 7, NULL, '2026-11-29 07:25:33.660496+00', '2026-11-29 07:25:33.662477+00', 'again', NULL, NULL, '', NULL, 0, NULL, NULL, '2026-11-29 07:25:33.662477+00', NULL);
INSERT INTO public.letter_position VALUES (0, 12);
INSERT INTO public.maintenance VALUES ('kafka-2', 'a new disk', 'ann', '2026-11-29 07:25:33.503084+00', NULL);
INSERT INTO public.node_release VALUES ('kafka-1', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '2026-11-29 07:25:33.532547+00');
INSERT INTO public.outbox VALUES ('page/1', 'page', '{"title": "t"}', '2026-11-29 07:25:33.715071+00', '2026-11-29 07:25:33.715071+00', '2026-11-30 07:25:33.715071+00', 0, '{}', NULL, NULL);
INSERT INTO public.pending_repair VALUES ('kafka-1', 'kafka', 'kafka-1-20261129T072533Z-f2c6', '2026-11-29 07:25:33.481582+00');
INSERT INTO public.refused_message VALUES ('2026-11-29', 'not_json', 2);
INSERT INTO public.release VALUES ('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'checkout', '2026-11-29 07:25:33.523266+00', NULL, NULL, NULL);
INSERT INTO public.sent_offsets VALUES ('trades/2024-10-08/a.csv', 'etag1', '', 0, 0, 8, '2026-11-29 07:25:33.84319+00');
INSERT INTO public.stream_loss VALUES (0, 5, 9, '2026-11-29 07:25:33.816652+00', 'open', '[]', '', NULL);
SELECT pg_catalog.setval('public.comparison_id_seq', 1, true);
SELECT pg_catalog.setval('public.deployment_entry_seq_seq', 1, true);
SELECT pg_catalog.setval('public.fault_id_seq', 1, true);
SELECT pg_catalog.setval('public.incident_entry_seq_seq', 1, true);
ALTER TABLE ONLY public.comparison
    ADD CONSTRAINT comparison_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.deployment_entry
    ADD CONSTRAINT deployment_entry_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.deployment_node
    ADD CONSTRAINT deployment_node_pkey PRIMARY KEY (deployment, node);
ALTER TABLE ONLY public.deployment
    ADD CONSTRAINT deployment_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.desired
    ADD CONSTRAINT desired_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.drift
    ADD CONSTRAINT drift_pkey PRIMARY KEY (node, path, found_at);
ALTER TABLE ONLY public.exchange_session
    ADD CONSTRAINT exchange_session_pkey PRIMARY KEY (day);
ALTER TABLE ONLY public.fault
    ADD CONSTRAINT fault_node_run_t0_key UNIQUE (node, run, t0);
ALTER TABLE ONLY public.fault
    ADD CONSTRAINT fault_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.flow_sample
    ADD CONSTRAINT flow_sample_pkey PRIMARY KEY (at);
ALTER TABLE ONLY public.heartbeat
    ADD CONSTRAINT heartbeat_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.incident_entry
    ADD CONSTRAINT incident_entry_incident_id_key_key UNIQUE (incident_id, key);
ALTER TABLE ONLY public.incident_entry
    ADD CONSTRAINT incident_entry_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.incident
    ADD CONSTRAINT incident_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ingest_wait
    ADD CONSTRAINT ingest_wait_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.intake_report
    ADD CONSTRAINT intake_report_pkey PRIMARY KEY (one);
ALTER TABLE ONLY public.kintsugi_schema
    ADD CONSTRAINT kintsugi_schema_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (node);
ALTER TABLE ONLY public.letter_position
    ADD CONSTRAINT letter_position_pkey PRIMARY KEY (partition);
ALTER TABLE ONLY public.maintenance
    ADD CONSTRAINT maintenance_pkey PRIMARY KEY (scope, "user");
ALTER TABLE ONLY public.node_release
    ADD CONSTRAINT node_release_pkey PRIMARY KEY (node);
ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.pending_repair
    ADD CONSTRAINT pending_repair_pkey PRIMARY KEY (node);
ALTER TABLE ONLY public.refused_message
    ADD CONSTRAINT refused_message_pkey PRIMARY KEY (day, reason);
ALTER TABLE ONLY public.release
    ADD CONSTRAINT release_pkey PRIMARY KEY (digest);
ALTER TABLE ONLY public.sent_offsets
    ADD CONSTRAINT sent_offsets_pkey PRIMARY KEY (key, etag, replay, partition);
ALTER TABLE ONLY public.stream_loss
    ADD CONSTRAINT stream_loss_pkey PRIMARY KEY (partition, first, recorded_at);
CREATE INDEX comparison_newest ON public.comparison USING btree (node, id DESC);
CREATE INDEX deployment_entry_of ON public.deployment_entry USING btree (deployment, seq);
CREATE UNIQUE INDEX deployment_one_running ON public.deployment USING btree (state) WHERE (state = 'running'::text);
CREATE UNIQUE INDEX drift_open ON public.drift USING btree (node, path) WHERE (gone_at IS NULL);
CREATE INDEX incident_entry_attempts ON public.incident_entry USING btree (at) WHERE (step = 'attempt'::text);
CREATE INDEX incident_entry_of ON public.incident_entry USING btree (incident_id, seq);
CREATE INDEX incident_newest ON public.incident USING btree (opened_at DESC);
CREATE UNIQUE INDEX incident_one_open ON public.incident USING btree (node) WHERE (closed_at IS NULL);
CREATE UNIQUE INDEX ledger_file_delivery ON public.ledger_file USING btree (bucket, key, etag, replay);
CREATE INDEX outbox_due ON public.outbox USING btree (due_at) WHERE (done_at IS NULL);
CREATE INDEX sent_offsets_where ON public.sent_offsets USING btree (partition, first, ends);
ALTER TABLE ONLY public.deployment
    ADD CONSTRAINT deployment_back_to_fkey FOREIGN KEY (back_to) REFERENCES public.release(digest);
ALTER TABLE ONLY public.deployment
    ADD CONSTRAINT deployment_digest_fkey FOREIGN KEY (digest) REFERENCES public.release(digest);
ALTER TABLE ONLY public.deployment_entry
    ADD CONSTRAINT deployment_entry_deployment_fkey FOREIGN KEY (deployment) REFERENCES public.deployment(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.deployment_node
    ADD CONSTRAINT deployment_node_deployment_fkey FOREIGN KEY (deployment) REFERENCES public.deployment(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.incident_entry
    ADD CONSTRAINT incident_entry_incident_id_fkey FOREIGN KEY (incident_id) REFERENCES public.incident(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.node_release
    ADD CONSTRAINT node_release_digest_fkey FOREIGN KEY (digest) REFERENCES public.release(digest);

"""The advisory locks of Postgres that this project takes, one number each; locks on a name are hashed by Postgres."""

from __future__ import annotations

MIGRATION = 0x4B494E54  # "KINT": the tables of the store
ATTEMPT = 0x4B494E55  # one attempt begins at a time, so that the guards count right
OUTBOX_TABLES = 0x4B494E56
HEARTBEAT_TABLES = 0x4B494E57
FLOW_SAMPLE_TABLES = 0x4B494E58
STREAM_RECORD = 0x4B494E5A  # its tables, and the losses that are recorded
SENT_OFFSET_TABLES = 0x4B494E5B
KILL = 0x4B494E60  # one kill in the fleet at a time
INGEST_LEDGER_TABLES = 0x6B696E74  # "kint"

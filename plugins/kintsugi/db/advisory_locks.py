"""The advisory locks of Postgres that this project takes, one number each; locks on a name are hashed by Postgres."""

from __future__ import annotations

MIGRATION = 0x4B494E54  # "KINT": one process at a time applies migrations
ATTEMPT = 0x4B494E55  # one attempt begins at a time, so that the guards count right
STREAM_LOSS = 0x4B494E5A  # one process at a time records losses of the stream
KILL = 0x4B494E60  # one kill in the fleet at a time

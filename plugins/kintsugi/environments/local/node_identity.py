"""Ids that all nodes of one installation must know before any of them runs.

Kafka's first quorum names each voter by the id of its data directory. So these ids are derived, not random.
"""

from __future__ import annotations

import base64
import hashlib

from kintsugi.core.settings import Settings

_SEED = "kafka_identity"  # the name of the secret that all ids are derived from


def kafka_cluster_id(settings: Settings) -> str:
    """Return the cluster id of this installation: 16 bytes as Kafka writes them (22 characters, base64 for URLs)."""
    return _derive_id(settings, "cluster")


def kafka_directory_id(settings: Settings, name: str) -> str:
    """Return the data directory id of broker ``name`` in the first quorum; a disk formatted later has another."""
    return _derive_id(settings, f"directory {name}")


def _derive_id(settings: Settings, purpose: str) -> str:
    secret = settings.secret(_SEED)
    number = 0
    while True:
        digest = hashlib.sha256(f"{secret} {purpose} {number}".encode()).digest()[:16]
        text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if not text.startswith("-"):  # Kafka's tools would read it as an option
            return text
        number += 1

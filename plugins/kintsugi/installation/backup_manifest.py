"""The manifest of a backup: a small JSON beside the encrypted object, written last. Without it a backup doesn't count.

Below the prefix of the place::

    backups/20261129T040012.345Z/control-plane.tar.enc
    backups/20261129T040012.345Z/manifest.json

The manifest holds no secret. Nothing in it is believed: the object's own authentication decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from kintsugi.core.encryption import BackupRefused

FORMAT = 1
"""The format of manifest and object. A restore refuses every other one."""

PREFIX = "backups/"
OBJECT, MANIFEST = "control-plane.tar.enc", "manifest.json"
_ID = re.compile(r"\d{8}T\d{6}\.\d{3}Z", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BackupManifest:
    """What is known of a backup without its key.

    ``id``: its time (UTC), as in its keys. ``release``: the digest of the checkout that made it. ``key``: which key it
    needs (`core.encryption.key_id`). ``size`` (bytes) and ``sha256``: of the encrypted object. ``dumps``: bytes by
    database.
    """

    id: str
    fleet: str
    environment: str
    release: str
    key: str
    size: int
    sha256: str
    dumps: Mapping[str, int]
    format: int = FORMAT

    @property
    def made_at(self) -> datetime:
        """When the backup began, UTC."""
        return time_of(self.id)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "made_at": self.made_at.isoformat()}, indent=2, sort_keys=True)


def new_id(now: datetime) -> str:
    """Return the id of a backup that begins at ``now`` (UTC)."""
    return f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}Z"


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of a backup's id."""
    return _ID.fullmatch(text) is not None


def time_of(backup: str) -> datetime:
    """Return the time that a backup's id says, UTC."""
    return datetime.strptime(backup, "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)


def object_key(backup: str) -> str:
    """Return the key of a backup's encrypted object, below the prefix of the place."""
    return f"{PREFIX}{backup}/{OBJECT}"


def manifest_key(backup: str) -> str:
    """Return the key of a backup's manifest, below the prefix of the place."""
    return f"{PREFIX}{backup}/{MANIFEST}"


def parse_manifest(backup: str, text: bytes) -> BackupManifest:
    """Return the manifest of the backup ``backup``. Raises BackupRefused if it isn't one, or is of another format."""
    try:
        document: dict[str, Any] = json.loads(text)
        document.pop("made_at", None)
        if document["format"] != FORMAT:
            raise BackupRefused(
                f"the backup {backup} has the format {document['format']!r}, and this version of Kintsugi reads "
                f"{FORMAT}: restore it with the version that made it"
            )
        manifest = BackupManifest(**document)
        sound = (
            manifest.id == backup
            and isinstance(document["size"], int)
            and _SHA256.fullmatch(manifest.sha256) is not None
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise BackupRefused(f"the manifest of the backup {backup} is damaged: name another backup")
    return manifest


def group_by_backup(sizes: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the sizes (bytes) of each backup's files by name, from the sizes by key below the prefix of the place."""
    backups: dict[str, dict[str, int]] = {}
    for key, size in sizes.items():
        backup, _, name = key.removeprefix(PREFIX).partition("/")
        if is_id(backup):
            backups.setdefault(backup, {})[name] = size
    return backups

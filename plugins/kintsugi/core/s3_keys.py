"""What each key of S3 may do in the bucket of the installation.

==========  =======================================  ==================================  ================
purpose     reads and lists                          writes                              deletes
==========  =======================================  ==================================  ================
ingest      trades, end-of-day files, manifests,     manifests, identities, dead         manifests of
            identities                               letters                             end-of-day files
monitor     what the ingest reads and writes
delivery    trades, end-of-day files, manifests      trades, end-of-day files            the same
synthetic                                            synthetic trades
releases    releases, records of roll-outs           the same
incidents   archives of incidents                    the same
page        archives of incidents
expiry      archives of incidents                                                        the same
backup      backups of the control plane             the same                            the same
==========  =======================================  ==================================  ================

`RIGHTS` is that table. The local S3 server enforces it (`kintsugi.controlplane.s3proxy`); `docs/security.md` has the
same as policies of IAM. No key creates or deletes a bucket, and a key may do nothing that isn't here.

A key is one secret of the installation. Its access key follows from the secret, so a new secret has another access key,
and both can be valid at once. `kintsugi.controlplane.s3proxy` replaces them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings


class S3Purpose(StrEnum):
    """What a client of S3 is for."""

    INGEST = "ingest"
    MONITOR = "monitor"
    DELIVERY = "delivery"
    SYNTHETIC = "synthetic"
    RELEASES = "releases"
    INCIDENTS = "incidents"
    PAGE = "page"
    EXPIRY = "expiry"
    BACKUP = "backup"


@dataclass(frozen=True, slots=True)
class Rights:
    """The prefixes below which objects may be read (and listed), written and deleted."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()


_FILES = ("trades/", "eod/")
_MANIFESTS, _IDENTITIES, _LETTERS = "manifests/", "identities/", "dead-letter/"
_RELEASES = ("releases/", "deployments/")
_INCIDENTS = ("incidents/",)
_BACKUPS = ("backups/",)

RIGHTS: Mapping[S3Purpose, Rights] = MappingProxyType(
    {
        S3Purpose.INGEST: Rights(
            read=(*_FILES, _MANIFESTS, _IDENTITIES),
            write=(_MANIFESTS, _IDENTITIES, _LETTERS),
            delete=("manifests/eod/",),  # so that an end-of-day file is read again
        ),
        S3Purpose.MONITOR: Rights(read=(*_FILES, _MANIFESTS, _IDENTITIES, _LETTERS)),
        S3Purpose.DELIVERY: Rights(read=(*_FILES, _MANIFESTS), write=_FILES, delete=_FILES),
        S3Purpose.SYNTHETIC: Rights(write=("trades/canary/",)),
        S3Purpose.RELEASES: Rights(read=_RELEASES, write=_RELEASES),
        S3Purpose.INCIDENTS: Rights(read=_INCIDENTS, write=_INCIDENTS),
        S3Purpose.PAGE: Rights(read=_INCIDENTS),
        S3Purpose.EXPIRY: Rights(read=_INCIDENTS, delete=_INCIDENTS),
        S3Purpose.BACKUP: Rights(read=_BACKUPS, write=_BACKUPS, delete=_BACKUPS),
    }
)


@dataclass(frozen=True, slots=True)
class S3Key:
    """One key; ``access_key`` is no secret."""

    purpose: S3Purpose
    secret: str

    @property
    def access_key(self) -> str:
        """Return the name that a client sends, as in ``ingest-3fa9c01b``."""
        return f"{self.purpose}-{hashlib.sha256(self.secret.encode()).hexdigest()[:8]}"


def is_access_key(purpose: S3Purpose, name: str) -> bool:
    """Whether ``name`` has the form of our access keys of this purpose."""
    return re.fullmatch(rf"{purpose}-[0-9a-f]{{8}}", name, re.ASCII) is not None


def secret_name(purpose: S3Purpose) -> str:
    """Return the name of the secret in `Settings.secrets`."""
    return f"s3-{purpose}"


def current_key(settings: Settings, purpose: S3Purpose) -> S3Key:
    """Return the key that clients use; created at first use."""
    return S3Key(purpose, settings.secret(secret_name(purpose)))


def valid_keys(settings: Settings) -> tuple[S3Key, ...]:
    """Return all keys that the server accepts: the current ones first, then those that a rotation adds or replaces."""
    current = [current_key(settings, purpose) for purpose in S3Purpose]
    others = [
        S3Key(purpose, path.read_text())
        for purpose in S3Purpose
        for path in (new_secret(settings, purpose), replaced_secret(settings, purpose))
        if path.exists()
    ]
    return (*current, *others)


def new_secret(settings: Settings, purpose: S3Purpose) -> Path:
    """Return the file of a secret that the server learns before a client uses it."""
    return settings.secrets / f"{secret_name(purpose)}.new"


def replaced_secret(settings: Settings, purpose: S3Purpose) -> Path:
    """Return the file of a secret that clients may still use."""
    return settings.secrets / f"{secret_name(purpose)}.replaced"


def writer_of(key: str) -> S3Purpose:
    """Return the purpose that writes a record of the control plane: of a release, of a roll-out or of an incident."""
    return S3Purpose.RELEASES if key.startswith(_RELEASES) else S3Purpose.INCIDENTS

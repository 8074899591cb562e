"""The files of a release, and the digest that names it. Pure, except that it reads the files.

A release holds everything that decides what a node runs: artifact versions with the SHA-256 of each jar
(``artifacts/*/jars.sha256``), the fleet file, Ansible's roles with their defaults, templates and modules, the Spark
applications, and the modules of ``kintsugi`` that nodes import. The code of the control plane (DAGs, recovery, hooks)
is not part of it, because no node runs it. Releases from before the lock files of the jars hold none; they are read as
before.

The digest is the SHA-256 of the manifest. The manifest is a canonical text with one line
``<sha256 of the content>  <mode>  <path>`` for each file, sorted by path. ``mode`` is ``755`` for executable files,
else ``644``; times and owners don't count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.errors import FleetError
from kintsugi.pipeline.stream.submission import list_driver_files

FLEET_FILE = "fleet.yaml"
MEMBERS = (
    "artifacts/*/jars.sha256",
    "artifacts/*/pom.xml",
    "ansible/ansible.cfg",
    "ansible/inventory/*.yml",
    "ansible/playbooks/**/*",
    "ansible/roles/**/*",
    "ansible/collections/**/*",
    "spark_apps/*.py",
    *(f"plugins/kintsugi/{pattern}" for pattern in list_driver_files()),
)
_NEVER = ("__pycache__",)


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a release, by the digest of its content and its mode (``644`` or ``755``)."""

    sha256: str
    mode: str


Manifest = Mapping[str, ManifestFile]
"""The files of a release by path, relative, with slashes."""


def member_paths(root: Path) -> list[str]:
    """Return the relative paths of a release's files below ``root``, sorted, without the fleet file."""
    paths = {
        path.relative_to(root).as_posix()
        for pattern in MEMBERS
        for path in root.glob(pattern)
        if path.is_file() and _is_member(path.relative_to(root))
    }
    return sorted(paths)


def _is_member(path: Path) -> bool:
    return not any(part in _NEVER or part.startswith(".") for part in path.parts) and path.suffix != ".pyc"


def read_manifest(root: Path, fleet_file: Path | None = None) -> Manifest:
    """Return the manifest of the files below ``root``. ``fleet_file``: used instead of ``root``'s own.

    Raises FleetError if a file can't be read, or if ``root`` holds no roles and so is not a checkout.
    """
    sources = {path: root / path for path in member_paths(root)} | {
        FLEET_FILE: fleet_file or root / FLEET_FILE
    }
    if not any(path.startswith("ansible/roles/") for path in sources):
        raise FleetError(f"{root} holds no ansible/roles: it is neither a checkout nor a release")
    try:
        return {path: _manifest_file(source) for path, source in sorted(sources.items())}
    except OSError as error:
        raise FleetError(f"cannot read {error.filename} for a release: {error.strerror}") from error


def _manifest_file(path: Path) -> ManifestFile:
    mode = "755" if path.stat().st_mode & 0o100 else "644"
    return ManifestFile(hashlib.sha256(path.read_bytes()).hexdigest(), mode)


def format_manifest(manifest: Manifest) -> str:
    """Return the manifest as its canonical text."""
    return "".join(f"{member.sha256}  {member.mode}  {path}\n" for path, member in sorted(manifest.items()))


def parse_manifest(text: str) -> Manifest:
    """Parse a manifest, the inverse of ``render``; raises ValueError for an invalid line."""
    manifest = {}
    for line in text.splitlines():
        sha256, mode, path = line.split("  ", 2)
        if len(sha256) != 64 or mode not in ("644", "755"):
            raise ValueError(line)
        manifest[path] = ManifestFile(sha256, mode)
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """Return the digest that names a release: 64 hexadecimal digits."""
    return hashlib.sha256(format_manifest(manifest).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ManifestDifference:
    """The paths that were added, removed or changed from one release to another, each sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def compare_manifests(old: Manifest, new: Manifest) -> ManifestDifference:
    """Return what differs from ``old`` to ``new``."""
    return ManifestDifference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
    )

"""Which sets of jars in the cache are still needed, and the removal of the others.

The cache is the machine's: several checkouts and installations share it.

1. Who needs a set writes the path of his lock file into ``.needed-by`` in its directory. A checkout does that at each
   ``make setup``, an installation for each release that it may have to configure a node from.
2. An entry counts as long as that lock file exists and names this set: a checkout with another version, or an
   installation that was removed, needs it no longer.
3. `remove_unneeded` drops the entries of releases that an installation has retired. Sets whose last entry is gone are
   removed.
4. Only the sets that the nodes run are removed. Those of the control plane (S3Proxy) are not: an older one may still
   run from its jars after `make setup` has fetched a newer one.
5. A set that was fetched by a version without this module stays: servers of an older installation may run from it. It
   has no such file, or the entry ``unknown`` in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from kintsugi.core.files import hold_lock
from kintsugi.core.settings import Settings

NEEDED_BY = ".needed-by"
_UNKNOWN = Path("unknown")


def mark_needed(settings: Settings, names: Iterable[str]) -> None:
    """Record that the lock files of ``settings.repository`` need their sets, as far as these are in the cache.

    Does nothing in a cache that this user can't write to: he removes nothing there either.
    """
    due = [name for name in names if not _is_marked(settings, name)]
    if not due or not os.access(settings.artifacts, os.W_OK):
        return
    with hold_lock(settings.artifacts / ".lock"):
        for name in due:
            folder = settings.jars(name)
            entries = _read_entries(folder)
            before = [_UNKNOWN] if entries is None else [one for one in entries if _counts(one, folder)]
            _write_entries(folder, [*before, settings.jar_lock(name).resolve()])


def begin_record(folder: Path) -> None:
    """Record that nobody needs the set yet: it was fetched just now."""
    _write_entries(folder, [])


def remove_unneeded(settings: Settings, retired: Collection[Path], among: Collection[str]) -> list[str]:
    """Remove the sets that nobody needs; returns their names (``kafka-0123456789ab``), sorted.

    ``retired``: directories of releases whose entries count no longer. ``among``: the names of the sets that may go.
    Raises OSError.
    """
    if not settings.artifacts.is_dir():
        return []
    removed = []
    with hold_lock(settings.artifacts / ".lock"):
        for folder in sorted(path for path in settings.artifacts.iterdir() if path.is_dir()):
            if folder.name.rpartition("-")[0] not in among:
                continue
            entries = _read_entries(folder)
            if entries is None:
                continue
            kept = [entry for entry in entries if _counts(entry, folder) and not _is_below(entry, retired)]
            if not kept:
                _remove(folder)
                removed.append(folder.name)
            elif kept != entries:
                _write_entries(folder, kept)
    return removed


def _is_marked(settings: Settings, name: str) -> bool:
    """Whether there is nothing to record: it is recorded, or the set isn't there, or its release has no lock file."""
    folder, lock = settings.jars(name), settings.jar_lock(name)
    return not lock.exists() or not folder.is_dir() or lock.resolve() in (_read_entries(folder) or [])


def _counts(lock: Path, folder: Path) -> bool:
    """Whether the lock file exists and names the set in ``folder``, or nobody knows who needs the set."""
    if lock == _UNKNOWN:
        return True
    try:
        digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    except OSError:
        return False
    return folder.name == f"{lock.parent.name}-{digest[:12]}"


def _is_below(lock: Path, directories: Iterable[Path]) -> bool:
    return any(lock.is_relative_to(directory.resolve()) for directory in directories)


def _read_entries(folder: Path) -> list[Path] | None:
    """The lock files that need the set; None if nothing was ever recorded."""
    try:
        return [Path(line) for line in (folder / NEEDED_BY).read_text().splitlines()]
    except FileNotFoundError:
        return None


def _write_entries(folder: Path, entries: Iterable[Path]) -> None:
    fresh = folder / f"{NEEDED_BY}.new"
    fresh.write_text("".join(f"{entry}\n" for entry in entries))
    fresh.replace(folder / NEEDED_BY)


def _remove(folder: Path) -> None:
    """Remove the set under another name, so that it is whole or gone."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        shutil.move(folder, Path(scratch) / folder.name)

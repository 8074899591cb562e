"""The files of a service, each written by a rename, so that a reader sees the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPEC = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "required": True},
    "mode": {"type": "str", "default": "0644"},
    "once": {"type": "bool", "default": False},
}


def put(entries: Sequence[dict[str, Any]], *, dry: bool) -> list[str]:
    """Write what differs, or only look with ``dry``; returns the paths. Raises OSError with the path in it."""
    due = [entry for entry in entries if _differs(entry)]
    if not dry:
        for entry in due:
            replace(Path(entry["path"]), entry["content"], int(entry["mode"], 8))
    return [entry["path"] for entry in due]


def _differs(entry: dict[str, Any]) -> bool:
    path = Path(entry["path"])
    try:
        present = path.read_bytes()
    except FileNotFoundError:
        return True
    if entry["once"]:
        return False
    return present != entry["content"].encode() or (path.stat().st_mode & 0o7777) != int(entry["mode"], 8)


def replace(path: Path, content: str, mode: int) -> None:
    """Put ``content`` in the place of the file, whole or not at all."""
    fresh = path.with_name(f".{path.name}.fresh")
    with fresh.open("wb") as handle:
        os.fchmod(handle.fileno(), mode)
        handle.write(content.encode())
    fresh.replace(path)


def make(directories: Sequence[str], *, dry: bool) -> list[str]:
    """Make the directories that are missing, or only look with ``dry``; returns them."""
    missing = [path for path in directories if not Path(path).is_dir()]
    if not dry:
        for path in missing:
            Path(path).mkdir(parents=True, exist_ok=True)
    return missing

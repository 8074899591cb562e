"""Files and directories of a service. A reader of a file sees its old content or its new one, never a part."""

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
SECRET_SPEC = {**SPEC, "content": {"type": "str", "required": True, "no_log": True}}


def write_files(entries: Sequence[dict[str, Any]], *, dry: bool) -> list[str]:
    """Write the files that differ, or only compare them with ``dry``; returns their paths. Raises OSError."""
    changed = [entry for entry in entries if _differs(entry)]
    if not dry:
        for entry in changed:
            replace_file(Path(entry["path"]), entry["content"], int(entry["mode"], 8))
    return [entry["path"] for entry in changed]


def _differs(entry: dict[str, Any]) -> bool:
    path = Path(entry["path"])
    try:
        present = path.read_bytes()
    except FileNotFoundError:
        return True
    if entry["once"]:
        return False
    return present != entry["content"].encode() or (path.stat().st_mode & 0o7777) != int(entry["mode"], 8)


def replace_file(path: Path, content: str, mode: int) -> None:
    """Replace the file's content and mode at once."""
    fresh = path.with_name(f".{path.name}.fresh")
    with fresh.open("wb") as handle:
        os.fchmod(handle.fileno(), mode)
        handle.write(content.encode())
    fresh.replace(path)


def make_directories(directories: Sequence[str], *, dry: bool) -> list[str]:
    """Make the missing directories, or only look for them with ``dry``; returns their paths. Raises OSError."""
    missing = [path for path in directories if not Path(path).is_dir()]
    if not dry:
        for path in missing:
            Path(path).mkdir(parents=True, exist_ok=True)
    return missing

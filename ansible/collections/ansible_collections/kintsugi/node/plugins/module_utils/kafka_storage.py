"""The data directory of a KRaft node, formatted once in its life."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SPEC = {
    "directory": {"type": "path", "required": True},
    "properties": {"type": "path", "required": True},
    "java": {"type": "list", "elements": "str", "required": True},
    "cluster_id": {"type": "str", "required": True},
    "initial_controllers": {"type": "list", "elements": "str", "default": []},
    "release_version": {"type": "str", "default": ""},
}

Run = Callable[[Sequence[str]], tuple[int, str, str]]
"""Runs a command; its code, what it printed, its errors."""


def is_blank(wanted: dict[str, Any]) -> bool:
    """Whether the directory was never formatted."""
    return not Path(wanted["directory"], "meta.properties").exists()


def format_directory(wanted: dict[str, Any], run: Run) -> str | None:
    """Format beside the wanted directory and rename it, so that one that looks formatted is whole.

    Returns why that can't be done, as the tool says it; None when it was done. Raises OSError.
    """
    directory = Path(wanted["directory"])
    fresh = directory.with_name(f"{directory.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # As a file of its own on the node's volume: the tool formats what log.dirs names.
    properties = fresh.with_suffix(".properties")
    text = Path(wanted["properties"]).read_text()
    kept = [line for line in text.splitlines() if not line.startswith("log.dirs=")]
    properties.write_text("\n".join([*kept, f"log.dirs={fresh}", ""]))
    controllers = wanted["initial_controllers"]
    how = ["--initial-controllers", ",".join(controllers)] if controllers else ["--no-initial-controllers"]
    if wanted["release_version"]:
        how += ["--release-version", wanted["release_version"]]
    code, out, err = run([*wanted["java"], "format", "-t", wanted["cluster_id"], "-c", str(properties), *how])
    properties.unlink()
    if code != 0:
        lines = (err or out).strip().splitlines() or ["no output"]
        return f"cannot format {directory}: {lines[-1]}"
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()
    fresh.rename(directory)
    return None

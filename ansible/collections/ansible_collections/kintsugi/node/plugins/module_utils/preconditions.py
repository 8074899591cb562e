"""Preconditions of a service: a volume with free space, the artifacts, a Java runtime."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

SPEC = {
    "volume": {"type": "path", "required": True},
    "artifacts": {"type": "path", "required": True},
    "free_mib": {"type": "int", "required": True},
    "java_home": {"type": "path", "required": True},
    "java_version": {"type": "int", "required": True},
}


def first_unmet(wanted: dict[str, Any]) -> str | None:
    """The first precondition that isn't met, as a sentence; None when all are met. Raises OSError."""
    volume, artifacts = wanted["volume"], wanted["artifacts"]
    if not Path(volume, "data").is_dir():
        return f"there is no data directory in {volume}"
    if not Path(artifacts).is_dir():
        return f"the artifacts are missing: {artifacts}; run `make setup`"
    free = shutil.disk_usage(volume).free >> 20
    if free < wanted["free_mib"]:
        return f"the volume has {free} MiB free, {wanted['free_mib']} are needed"
    return _java_problem(Path(wanted["java_home"]), wanted["java_version"])


def _java_problem(home: Path, version: int) -> str | None:
    """What is wrong with the Java runtime. Its release file names the version, so no JVM has to start."""
    if not os.access(home / "bin" / "java", os.X_OK):
        return f"there is no Java in {home}; install a runtime of version {version}"
    try:
        lines = (home / "release").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    found = next(
        (line.partition("=")[2].strip('"') for line in lines if line.startswith("JAVA_VERSION=")), None
    )
    if found is None or found.partition(".")[0] != str(version):
        return f"{home} is Java {found or 'of no version that its release file tells'}, {version} is needed"
    return None

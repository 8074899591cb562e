"""What a service of a node stands on: a volume with room, artifacts, a Java runtime."""

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


def lacking(needs: dict[str, Any]) -> str | None:
    """The first need that isn't met, as a sentence; None when all are. Raises OSError where it can't look."""
    volume, artifacts = needs["volume"], needs["artifacts"]
    if not Path(volume, "data").is_dir():
        return f"there is no data directory in {volume}"
    if not Path(artifacts).is_dir():
        return f"the artifacts are missing: {artifacts}; run `make setup`"
    free = shutil.disk_usage(volume).free >> 20
    if free < needs["free_mib"]:
        return f"the volume has {free} MiB free, {needs['free_mib']} are needed"
    return _java(Path(needs["java_home"]), needs["java_version"])


def _java(home: Path, version: int) -> str | None:
    """What is wrong with the runtime. Its release file tells the version without the start of a JVM."""
    if not os.access(home / "bin" / "java", os.X_OK):
        return f"there is no Java in {home}; install a runtime of version {version}"
    try:
        lines = (home / "release").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    said = next(
        (line.partition("=")[2].strip('"') for line in lines if line.startswith("JAVA_VERSION=")), None
    )
    if said is None or said.partition(".")[0] != str(version):
        return f"{home} is Java {said or 'of no version that its release file tells'}, {version} is needed"
    return None

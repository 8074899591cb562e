"""The artifact cache: jars from Maven, fetched once, so that a recovery downloads nothing.

``artifacts/<name>/pom.xml`` has coordinates only; ``<cache>/artifacts/<name>/`` gets those jars and their
dependencies. A stamp with the digest of the pom marks a folder as complete.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from kintsugi.core.errors import KintsugiError, PreflightError
from kintsugi.core.files import hold_lock
from kintsugi.core.settings import Settings, load_settings

_STAMP = ".pom.sha256"

Fetch = Callable[[Path, Path], None]


def declared_sets(settings: Settings) -> list[str]:
    """Return the artifact sets that this checkout declares, sorted."""
    return sorted(pom.parent.name for pom in (settings.repository / "artifacts").glob("*/pom.xml"))


def missing_sets(settings: Settings) -> list[str]:
    """Return the sets whose folder is missing or was made from another pom."""
    return [name for name in declared_sets(settings) if not _is_complete(settings, name)]


def outdated_sets(settings: Settings, poms: Mapping[str, str]) -> list[str]:
    """The sets whose folder was made from another pom than the one with this SHA-256, by name."""

    def read_stamp(name: str) -> str:
        path = settings.artifacts / name / _STAMP
        return path.read_text() if path.exists() else ""

    return sorted(name for name, sha256 in poms.items() if read_stamp(name) != sha256)


def fetch_missing(settings: Settings, fetch: Fetch | None = None) -> list[str]:
    """Fetch what is missing and return the names of what was fetched.

    A folder appears whole or not at all, so this may be killed and repeated. ``fetch(pom, directory)``
    puts the jars of ``pom`` into ``directory``; by default Maven does. Raises PreflightError without
    Maven, KintsugiError with Maven's reason when it fails.
    """
    if not missing_sets(settings):
        return []
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    with hold_lock(settings.artifacts / ".lock"):
        wanted = missing_sets(settings)  # another may have fetched while we waited
        for name in wanted:
            _fetch_one(settings, name, fetch or fetch_by_maven)
    return wanted


def fetch_by_maven(pom: Path, directory: Path) -> None:
    """Copy the runtime dependencies of ``pom`` into ``directory``."""
    maven = shutil.which("mvn")
    if maven is None:
        raise PreflightError("no Maven is installed: run `apt-get install maven`, then `make setup` again")
    command = [
        *(maven, "--batch-mode", "--no-transfer-progress", "--file", str(pom)),
        *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={directory}"),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
        reason = errors[0].removeprefix("[ERROR]").strip() if errors else f"exit code {done.returncode}"
        raise KintsugiError(
            f"Maven could not fetch the jars of {pom}: {reason}; check the network and run it again"
        )


def _fetch_one(settings: Settings, name: str, fetch: Fetch) -> None:
    pom, target = _pom_path(settings, name), settings.artifacts / name
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=settings.artifacts) as scratch:
        fresh = Path(scratch) / name
        fresh.mkdir(mode=0o755)
        fetch(pom, fresh)
        if not any(fresh.glob("*.jar")):
            raise KintsugiError(f"Maven fetched no jar for {pom}: does it name any dependency?")
        (fresh / _STAMP).write_text(_file_digest(pom))
        if _same_jars(fresh, target):
            # Running servers hold these very files open: leave them where they are.
            (fresh / _STAMP).replace(target / _STAMP)
            return
        if target.exists():
            target.rename(Path(scratch) / "old")
        fresh.rename(target)


def _same_jars(one: Path, other: Path) -> bool:
    def jar_sizes(directory: Path) -> dict[str, int]:
        return {jar.name: jar.stat().st_size for jar in directory.glob("*.jar")}

    return jar_sizes(one) == jar_sizes(other)


def _is_complete(settings: Settings, name: str) -> bool:
    try:
        return (settings.artifacts / name / _STAMP).read_text() == _file_digest(_pom_path(settings, name))
    except OSError:
        return False


def _pom_path(settings: Settings, name: str) -> Path:
    return settings.repository / "artifacts" / name / "pom.xml"


def _file_digest(pom: Path) -> str:
    return hashlib.sha256(pom.read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        for fetched in fetch_missing(load_settings()):
            print(f"fetched {fetched}")
    except KintsugiError as error:
        sys.exit(f"kintsugi: {error}")

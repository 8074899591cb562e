"""The artifact cache: jars from Maven, fetched once, so that a recovery downloads nothing.

``artifacts/<name>/pom.xml`` names coordinates only. ``artifacts/<name>/jars.sha256`` is the lock file: the SHA-256 of
each jar that the pom and its dependencies give, as ``sha256sum`` writes them. Both are part of a release.
``artifacts/<name>/coordinates.txt`` names the Maven coordinates of each jar, for the bill of materials.

1. ``ensure`` lets Maven copy the jars into a temporary directory.
2. Every jar is hashed and compared with the lock file. One jar too many, too few or with other bytes ends it.
3. The directory is renamed to ``<cache>/artifacts/<name>-<digest of the lock file>/``, so it is complete or absent.
4. A record in it says of each jar the size and the time of change at which it was verified.
5. ``altered`` compares the jars with the record, and hashes only those that differ: a start reads no jar.
   ``check_all`` hashes every jar.

Sets of earlier releases stay as long as a release needs them: see `kintsugi.infra.artifact_retention`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from kintsugi.core.errors import KintsugiError, PreflightError
from kintsugi.core.files import hold_lock
from kintsugi.core.settings import Settings, load_settings
from kintsugi.infra import artifact_retention

COORDINATES = "coordinates.txt"
_RECORD = ".verified.json"
_OLD_STAMP = ".pom.sha256"  # in sets of releases from before the lock files
FETCH_S = 240  # for one set; 50 to 70 MB take 20 s on a usual line
_ADVICE = "; delete {folder} and run `make setup`, which fetches the jars again and verifies them"

Fetch = Callable[[Path, Path], None]


class JarMismatchError(KintsugiError):
    """Jars are not those that the lock file names."""


def names(settings: Settings) -> list[str]:
    """Return the artifact sets that this checkout declares, sorted."""
    return sorted(pom.parent.name for pom in (settings.repository / "artifacts").glob("*/pom.xml"))


def missing(settings: Settings, among: Iterable[str] | None = None) -> list[str]:
    """The sets (default: all) that aren't in the cache or were made from another pom or lock file."""
    return [
        name for name in (names(settings) if among is None else among) if not _is_complete(settings, name)
    ]


def altered(settings: Settings, among: Iterable[str] | None = None) -> list[str]:
    """What is wrong with jars that changed since they were verified, a sentence for each jar; reads only those."""
    wanted = names(settings) if among is None else among
    return [problem for name in wanted for problem in _altered(settings, name)]


def check_all(settings: Settings) -> list[str]:
    """Hash every jar of every set; returns what is wrong, a sentence for each jar. Reads about 250 MB."""
    problems = []
    for name in names(settings):
        folder = settings.jars(name)
        found = _mismatches(folder, read_lock(settings.jar_lock(name)))
        problems += [problem + _ADVICE.format(folder=folder) for problem in found]
    return problems


def read_lock(path: Path) -> dict[str, str]:
    """Return SHA-256 by jar; raises KintsugiError if the lock file is missing or invalid."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise KintsugiError(f"{path} is missing: run `make lock`, and commit what it writes") from error
    fields = [line.partition("  ") for line in lines]
    jars = {jar: sha256 for sha256, _, jar in fields}
    if len(jars) != len(lines) or not all(jar and len(sha256) == 64 for jar, sha256 in jars.items()):
        raise KintsugiError(f"{path} is not a list of SHA-256 and file name: restore it from the repository")
    return jars


def write_locks(settings: Settings, fetch: Fetch | None = None) -> list[Path]:
    """Write the lock file and the coordinates of every set from what Maven gives now; returns those that changed.

    ``fetch`` puts the jars below the directory as a Maven repository has them: ``<group>/<artifact>/<version>/``.
    """
    changed = []
    for name in names(settings):
        with tempfile.TemporaryDirectory(prefix="kintsugi-lock-") as scratch:
            (fetch or fetch_repository_by_maven)(_pom(settings, name), Path(scratch))
            jars = sorted(Path(scratch).rglob("*.jar"), key=lambda jar: jar.name)
            lock = settings.jar_lock(name)
            texts = {
                lock: "".join(f"{_sha256(jar)}  {jar.name}\n" for jar in jars),
                lock.with_name(COORDINATES): "".join(
                    f"{jar.name}  {_coordinates(jar.relative_to(scratch))}\n" for jar in jars
                ),
            }
        for path, text in texts.items():
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
                changed.append(path)
    return changed


def _coordinates(jar: Path) -> str:
    *group, artifact, version, _ = jar.parts
    return f"{'.'.join(group)}:{artifact}:{version}"


def ensure(
    settings: Settings, fetch: Fetch | None = None, *, among: Collection[str] | None = None
) -> list[str]:
    """Fetch and verify what is missing of the sets (default: all), and return the names of what was fetched.

    A folder appears whole or not at all, so this may be killed and repeated. ``fetch(pom, directory)``
    puts the jars of ``pom`` into ``directory``; by default Maven does. Raises PreflightError without
    Maven, KintsugiError with Maven's reason when it fails, JarMismatchError when a jar isn't what the lock file names.
    """
    needed = names(settings) if among is None else among
    _refuse(altered(settings, needed))
    fetched: list[str] = []
    if missing(settings, needed):
        settings.artifacts.mkdir(parents=True, exist_ok=True)
        with hold_lock(settings.artifacts / ".lock"):
            fetched = missing(settings, needed)  # another may have fetched while we waited
            for name in fetched:
                _fetch_one(settings, name, fetch or fetch_by_maven)
    artifact_retention.mark_needed(settings, needed)
    return fetched


def fetch_by_maven(pom: Path, directory: Path) -> None:
    """Copy the runtime dependencies of ``pom`` into ``directory``."""
    _copy_dependencies(pom, directory)


def fetch_repository_by_maven(pom: Path, directory: Path) -> None:
    """Copy the runtime dependencies of ``pom`` into ``directory``, each at its place in a Maven repository."""
    _copy_dependencies(pom, directory, "-Dmdep.useRepositoryLayout=true")


def _copy_dependencies(pom: Path, directory: Path, *options: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise PreflightError("no Maven is installed: run `apt-get install maven`, then `make setup` again")
    command = [
        *(maven, "--batch-mode", "--no-transfer-progress", "--file", str(pom)),
        *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={directory}"),
        *options,
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=FETCH_S
        )
    except subprocess.TimeoutExpired as error:
        raise KintsugiError(
            f"Maven did not fetch the jars of {pom} within {FETCH_S} s; check the network and run it again"
        ) from error
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
        reason = errors[0].removeprefix("[ERROR]").strip() if errors else f"exit code {done.returncode}"
        raise KintsugiError(
            f"Maven could not fetch the jars of {pom}: {reason}; check the network and run it again"
        )


def _fetch_one(settings: Settings, name: str, fetch: Fetch) -> None:
    pom, lock, target = _pom(settings, name), settings.jar_lock(name), settings.jars(name)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=settings.artifacts) as scratch:
        fresh = Path(scratch) / name
        fresh.mkdir(mode=0o755)
        fetch(pom, fresh)
        if not any(fresh.glob("*.jar")):
            raise KintsugiError(f"Maven fetched no jar for {pom}: does it name any dependency?")
        advice = (
            f"; nothing was installed. If {pom} was changed, run `make lock` and review the difference. "
            "Else delete the jar from ~/.m2/repository and run it again; if it is refused again, do not use it"
        )
        _refuse(problem + advice for problem in _mismatches(fresh, read_lock(lock)))
        if target.exists() and not _mismatches(target, read_lock(lock)):
            # Running nodes hold these very files open: leave them where they are.
            _write_record(target, pom)
            return
        _write_record(fresh, pom)
        artifact_retention.begin_record(fresh)
        if target.exists():
            target.rename(Path(scratch) / "old")
        fresh.rename(target)


def _refuse(problems: Iterable[str]) -> None:
    listed = list(problems)
    if listed:
        raise JarMismatchError("\n".join(listed))


def _mismatches(folder: Path, lock: Mapping[str, str]) -> list[str]:
    """What distinguishes the jars in ``folder`` from the lock file, a sentence each."""
    jars = {jar.name for jar in folder.glob("*.jar")}
    problems = [f"{folder / jar} is missing, the lock file names it" for jar in sorted(lock.keys() - jars)]
    problems += [f"{folder / jar} is not in the lock file" for jar in sorted(jars - lock.keys())]
    for jar in sorted(lock.keys() & jars):
        problems += _wrong_bytes(folder / jar, lock[jar])
    return problems


def _wrong_bytes(jar: Path, expected: str) -> list[str]:
    actual = _sha256(jar)
    if actual == expected:
        return []
    return [f"{jar} is not the jar that the lock file names: expected SHA-256 {expected}, actual {actual}"]


def _altered(settings: Settings, name: str) -> list[str]:
    folder, lock = settings.jars(name), settings.jar_lock(name)
    record = _read_record(folder)
    if record is None or not lock.exists():
        return []
    now, then = _stats(folder), record["jars"]
    if now == then:
        return []
    expected = read_lock(lock)
    changed = {jar for jar in now.keys() | then.keys() if now.get(jar) != then.get(jar)}
    present = {jar: sha256 for jar, sha256 in expected.items() if jar in now and jar in changed}
    problems = [f"{folder / jar} is missing" for jar in sorted(then.keys() - now.keys())]
    problems += [f"{folder / jar} is not in the lock file" for jar in sorted(now.keys() - expected.keys())]
    problems += [problem for jar in sorted(present) for problem in _wrong_bytes(folder / jar, present[jar])]
    return [problem + _ADVICE.format(folder=folder) for problem in problems]


def _is_complete(settings: Settings, name: str) -> bool:
    folder, pom = settings.jars(name), _digest(_pom(settings, name))
    if not settings.jar_lock(name).exists():
        try:
            return (folder / _OLD_STAMP).read_text() == pom
        except OSError:
            return False
    record = _read_record(folder)
    return record is not None and record["pom"] == pom


def _write_record(folder: Path, pom: Path) -> None:
    record = {"pom": _digest(pom), "jars": _stats(folder)}
    (folder / _RECORD).write_text(json.dumps(record, indent=1, sort_keys=True))


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record if {"pom", "jars"} <= record.keys() else None


def _stats(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of each jar. To the second, because an image's layers keep no more of it."""
    return {
        jar.name: [status.st_size, int(status.st_mtime)]
        for jar in folder.glob("*.jar")
        for status in (jar.stat(),)
    }


def _pom(settings: Settings, name: str) -> Path:
    return settings.repository / "artifacts" / name / "pom.xml"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Fetch what is missing; ``--check`` hashes every jar, ``--lock`` writes the lock files."""
    parser = argparse.ArgumentParser(prog="python -m kintsugi.infra.artifacts", description=main.__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--check", action="store_true", help="compare the SHA-256 of every jar with the lock files"
    )
    what.add_argument(
        "--lock", action="store_true", help="write artifacts/*/jars.sha256 from what Maven gives"
    )
    options = parser.parse_args(arguments)
    settings = load_settings()
    try:
        if options.check:
            _refuse(check_all(settings))
        elif options.lock:
            for lock in write_locks(settings):
                print(f"wrote {lock.relative_to(settings.repository)}")
        else:
            for fetched in ensure(settings):
                print(f"fetched {fetched}")
    except KintsugiError as error:
        sys.exit(f"kintsugi: {error}")


if __name__ == "__main__":
    main()

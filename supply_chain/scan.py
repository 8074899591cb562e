"""Compare the bill of materials with a vulnerability database in OSV's format, without a network.

The database is a directory with OSV's data dumps of the ecosystems ``PyPI``, ``Maven`` and ``Debian:12``: for each a
directory with ``all.zip`` or with the ``.json`` files that it contains. A newer dump finds more.

1. Read the components, and the records that name one of them. A withdrawn record does not count.
2. A component is affected if the record lists its version, or if the version lies in one of the record's ranges
   (OSV's schema, "Evaluation"). Versions are compared by the rules of their ecosystem (library univers).
3. Take out what ``supply_chain/accepted.yaml`` accepts for this package. An acceptance has a reason and two dates: when
   it was given, and until when it holds.
4. Print the rest. Exit code 0: nothing is left. 1: there are findings, or an acceptance has run out. 2: no database.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml
from packageurl import PackageURL
from univers.versions import DebianVersion, InvalidVersion, MavenVersion, PypiVersion, Version

from supply_chain.sbom import REPOSITORY, SOURCE

ACCEPTED = Path(__file__).with_name("accepted.yaml")
VERSIONS: Mapping[str, type[Version]] = {"PyPI": PypiVersion, "Maven": MavenVersion, "Debian": DebianVersion}
NO_DATABASE = 2


class DatabaseError(Exception):
    """There is no usable vulnerability database."""


@dataclass(frozen=True, slots=True)
class Package:
    """A component as advisories name it. ``ecosystem``: PyPI, Maven or Debian."""

    ecosystem: str
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A vulnerability of a package. ``ids``: the record's id, then its aliases. ``fixed``: versions that have a fix."""

    package: Package
    ids: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no fix is known"
        return f"{self.package.name} {self.package.version}: {' '.join(self.ids)}: {self.summary} ({fix})"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A finding that is known and stays: ``id`` and ``package`` (name and version) say which."""

    id: str
    package: str
    reason: str
    accepted: date
    until: date

    def covers(self, finding: Finding) -> bool:
        return self.id in finding.ids and self.package == f"{finding.package.name} {finding.package.version}"


def read_packages(document: Mapping[str, Any]) -> Iterator[Package]:
    """The packages of a bill of materials that a database can name."""
    for component in document["components"]:
        url = PackageURL.from_string(component["purl"])
        if url.type == "pypi":
            yield Package("PyPI", url.name, url.version or "")
        elif url.type == "maven":
            yield Package("Maven", f"{url.namespace}:{url.name}", url.version or "")
        elif url.type == "deb":
            properties = {given["name"]: given["value"] for given in component.get("properties", ())}
            name, _, version = properties[SOURCE].partition(" ")
            yield Package("Debian", name, version)


def read_records(database: Path) -> Iterator[dict[str, Any]]:
    """All records of the database; raises DatabaseError if there is none."""
    archives = sorted(database.glob("*/all.zip"))
    files = sorted(database.glob("*/*.json"))
    if not archives and not files:
        raise DatabaseError(
            f"{database} holds no vulnerability database: put OSV's data dumps of PyPI, Maven and Debian:12 there, as "
            "PyPI/all.zip, Maven/all.zip and Debian/all.zip, or name their directory in OSV_DATABASE"
        )
    for archive in archives:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if name.endswith(".json"):
                    yield json.loads(opened.read(name))
    for file in files:
        yield json.loads(file.read_text())


def find_vulnerabilities(
    installed: Iterable[Package], database: Iterable[Mapping[str, Any]]
) -> list[Finding]:
    """The vulnerabilities of the packages, by package and id."""
    by_name: dict[tuple[str, str], set[Package]] = {}
    for package in installed:
        by_name.setdefault((package.ecosystem, package.name.lower()), set()).add(package)
    found = {
        Finding(
            package,
            (record["id"], *record.get("aliases", ())),
            " ".join(str(record.get("summary") or record.get("details", ""))[:200].split()),
            tuple(dict.fromkeys(_events(affected, "fixed"))),
        )
        for record in database
        if "withdrawn" not in record
        for affected in record.get("affected", ())
        for package in by_name.get(_key(affected), ())
        if is_affected(package, affected)
    }
    return sorted(found, key=lambda finding: (finding.package.name, finding.package.version, finding.ids))


def _key(affected: Mapping[str, Any]) -> tuple[str, str]:
    package = affected.get("package", {})
    return package.get("ecosystem", "").partition(":")[0], package.get("name", "").lower()


def _events(affected: Mapping[str, Any], kind: str) -> Iterator[str]:
    for version_range in affected.get("ranges", ()):
        if version_range["type"] != "GIT":
            yield from (event[kind] for event in version_range["events"] if kind in event)


def is_affected(package: Package, affected: Mapping[str, Any]) -> bool:
    """Whether this part of a record names the package's version. One that can't be compared counts as affected."""
    if package.version in affected.get("versions", ()):
        return True
    ranges = [found for found in affected.get("ranges", ()) if found["type"] in {"ECOSYSTEM", "SEMVER"}]
    try:
        return any(_is_in(package, found["events"]) for found in ranges)
    except InvalidVersion:
        return True


def _is_in(package: Package, events: Sequence[Mapping[str, str]]) -> bool:
    kind = VERSIONS[package.ecosystem]
    version, inside = kind(package.version), False
    # The order of the events is that of their versions; "0" comes before every version.
    known = [(name, value) for event in events for name, value in event.items() if name != "limit"]
    earliest = [name for name, value in known if value == "0"]
    later = sorted((kind(value), name) for name, value in known if value != "0")
    if "introduced" in earliest:
        inside = True
    for at, name in later:
        if name == "introduced" and version >= at:
            inside = True
        elif (name == "fixed" and version >= at) or (name == "last_affected" and version > at):
            inside = False
    return inside


def read_accepted(path: Path = ACCEPTED) -> list[Acceptance]:
    """The accepted findings; raises TypeError for one without a reason or a date."""
    listed: list[dict[str, Any]] = yaml.safe_load(path.read_text()) or []
    return [Acceptance(**entry) for entry in listed]


def list_open_findings(findings: Sequence[Finding], accepted: Sequence[Acceptance], today: date) -> list[str]:
    """What has to be acted upon, a line each: findings that nobody accepted, and acceptances that ran out."""
    valid = [entry for entry in accepted if entry.until >= today]
    lines = [str(finding) for finding in findings if not any(entry.covers(finding) for entry in valid)]
    lines += [
        f"the acceptance of {entry.id} for {entry.package} ran out on {entry.until}: fix it, or decide again"
        for entry in accepted
        if entry.until < today
    ]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Compare build/sbom.json with the database."""
    parser = argparse.ArgumentParser(prog="python -m supply_chain.scan", description=main.__doc__)
    parser.add_argument("--sbom", type=Path, default=REPOSITORY / "build/sbom.json", help="build/sbom.json")
    parser.add_argument(
        "--database",
        type=Path,
        default=Path(os.environ.get("OSV_DATABASE") or REPOSITORY / "build/osv"),
        help="a directory of OSV's data dumps; default: OSV_DATABASE, else build/osv",
    )
    parser.add_argument("--accepted", type=Path, default=ACCEPTED, help="supply_chain/accepted.yaml")
    options = parser.parse_args(arguments)
    try:
        findings = find_vulnerabilities(
            read_packages(json.loads(options.sbom.read_text())), read_records(options.database)
        )
    except (DatabaseError, FileNotFoundError) as error:
        print(f"kintsugi: {error}", file=sys.stderr)
        return NO_DATABASE
    accepted = read_accepted(options.accepted)
    lines = list_open_findings(findings, accepted, datetime.now(UTC).date())
    print("\n".join([*lines, f"{len(findings)} vulnerabilities, {len(lines)} to act upon"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

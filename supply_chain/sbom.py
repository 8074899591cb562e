"""Write the software bill of materials in CycloneDX's format: Python packages, jars and Debian packages.

1. Python packages, as ``requirements.txt`` locks them.
2. Jars of Kafka, Cassandra, Spark's connectors, S3Proxy and the page, as ``artifacts/*/`` lock them, with SHA-256.
3. The jars inside of pyspark, by the coordinates that they contain. A jar that has none is listed by its file name.
4. Debian packages, as dpkg lists them: of this machine, or of an image by ``--debian``.

Two runs over the same input write the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = "kintsugi:debian-source"
"""A property of a Debian package: its source package and version, by which advisories name it."""

DPKG_FORMAT = "${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\t${source:Version}\\n"
_REQUIREMENT = re.compile(r"^([a-z0-9][a-z0-9.-]*)==([^ \\\n]+)", re.MULTILINE)
_POM_PROPERTIES = re.compile(r"META-INF/maven/[^/]+/[^/]+/pom\.properties")


def python_packages(requirements: str) -> Iterator[Component]:
    """The packages that a lock file with these lines names."""
    for name, version in _REQUIREMENT.findall(requirements):
        yield _component(PackageURL("pypi", name=name, version=version))


def locked_jars(directory: Path) -> Iterator[Component]:
    """The jars of one set, by its lock file and its coordinates."""
    hashes = dict(line.split("  ")[::-1] for line in (directory / "jars.sha256").read_text().splitlines())
    for line in (directory / "coordinates.txt").read_text().splitlines():
        jar, coordinates = line.split("  ")
        group, artifact, version = coordinates.split(":")
        yield _component(PackageURL("maven", group, artifact, version), sha256=hashes[jar])


def bundled_jars(directory: Path) -> Iterator[Component]:
    """The jars in a directory, by the coordinates inside of them."""
    for jar in sorted(directory.glob("*.jar")):
        yield _component(_coordinates(jar), sha256=hashlib.sha256(jar.read_bytes()).hexdigest())


def _coordinates(jar: Path) -> PackageURL:
    with zipfile.ZipFile(jar) as archive:
        found = [name for name in archive.namelist() if _POM_PROPERTIES.fullmatch(name)]
        lines = archive.read(found[0]).decode().splitlines() if len(found) == 1 else []
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    if {"groupId", "artifactId", "version"} <= values.keys():
        return PackageURL("maven", values["groupId"], values["artifactId"], values["version"])
    name, _, version = jar.stem.rpartition("-")
    return PackageURL("generic", name=name or jar.stem, version=version or None)


def debian_packages(listing: str) -> Iterator[Component]:
    """The packages of a listing in the form of ``DPKG_FORMAT``."""
    for line in listing.splitlines():
        name, version, architecture, source, source_version = line.split("\t")
        url = PackageURL("deb", "debian", name, version, qualifiers={"arch": architecture})
        yield _component(url, properties={SOURCE: f"{source} {source_version}"})


def installed_debian_packages() -> str:
    """What dpkg lists on this machine; empty where there is no dpkg."""
    try:
        command = ["dpkg-query", "--show", f"--showformat={DPKG_FORMAT}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return ""


def bill_of_materials(components: Iterable[Component], version: str) -> str:
    """The document, as JSON. What is named twice is listed once."""
    unique = {str(component.bom_ref): component for component in components}
    subject = Component(name="kintsugi", version=version, type=ComponentType.APPLICATION, bom_ref="kintsugi")
    bom = Bom(components=unique.values())
    bom.metadata.component = subject
    # Neither a time nor a random number: the same components are the same document.
    bom.metadata.timestamp = datetime.fromtimestamp(0, UTC)
    bom.serial_number = uuid5(NAMESPACE_URL, "\n".join(sorted(unique)))
    bom.register_dependency(subject, unique.values())
    return JsonV1Dot6(bom).output_as_string(indent=1)


def _component(url: PackageURL, *, sha256: str = "", properties: dict[str, str] | None = None) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        group=url.namespace,
        name=url.name,
        version=url.version,
        purl=url,
        bom_ref=url.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else None,
        properties=[Property(name=name, value=value) for name, value in (properties or {}).items()],
    )


def collect_components(debian: str) -> Iterator[Component]:
    """All components of this checkout; ``debian``: a listing of Debian packages."""
    yield from python_packages((REPOSITORY / "requirements.txt").read_text())
    for lock in sorted(REPOSITORY.glob("artifacts/*/jars.sha256")):
        yield from locked_jars(lock.parent)
    pyspark = importlib.util.find_spec("pyspark")
    if pyspark is not None and pyspark.origin is not None:
        yield from bundled_jars(Path(pyspark.origin).parent / "jars")
    yield from debian_packages(debian)


def main(arguments: list[str] | None = None) -> int:
    """Write the bill of materials of this checkout."""
    parser = argparse.ArgumentParser(prog="python -m supply_chain.sbom", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "build/sbom.json", help="build/sbom.json")
    parser.add_argument(
        "--debian",
        type=Path,
        help="a listing of dpkg-query --show to take instead of this machine's packages",
    )
    options = parser.parse_args(arguments)
    listing = options.debian.read_text() if options.debian else installed_debian_packages()
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    text = bill_of_materials(collect_components(listing), version)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text + "\n")
    print(f"wrote {options.output}: {text.count('bom-ref') - 1} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())

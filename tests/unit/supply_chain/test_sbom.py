"""What the bill of materials lists, and by which names."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from supply_chain import sbom


def names(text: str) -> list[str]:
    return [component["purl"] for component in json.loads(text)["components"]]


def test_python_packages_come_from_the_lock_file() -> None:
    listed = list(sbom.python_packages("# x\na2wsgi==1.10.10 \\\n    --hash=sha256:00\nzipp==4.1.2 \\\n"))
    assert [str(component.purl) for component in listed] == ["pkg:pypi/a2wsgi@1.10.10", "pkg:pypi/zipp@4.1.2"]


def test_every_package_and_jar_of_this_checkout_is_listed() -> None:
    listed = {str(component.purl) for component in sbom.collect_components("")}
    requirements = (sbom.REPOSITORY / "requirements.txt").read_text()
    assert sum(name.startswith("pkg:pypi/") for name in listed) == requirements.count("==")
    for name in ("org.apache.kafka/kafka_2.13", "org.apache.cassandra/cassandra-all", "org.gaul/s3proxy"):
        assert any(listed_name.startswith(f"pkg:maven/{name}@") for listed_name in listed)


def test_locked_jars_have_their_hash(tmp_path: Path) -> None:
    (tmp_path / "jars.sha256").write_text(f"{'ab' * 32}  kafka-2.jar\n")
    (tmp_path / "coordinates.txt").write_text("kafka-2.jar  org.x:kafka:2\n")
    (component,) = sbom.locked_jars(tmp_path)
    assert str(component.purl) == "pkg:maven/org.x/kafka@2"
    assert [found.content for found in component.hashes] == ["ab" * 32]


def test_a_bundled_jar_is_named_by_its_coordinates_or_by_its_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a-1.jar", "w") as archive:
        text = "groupId=org.x\nartifactId=a\nversion=1\n"
        archive.writestr("META-INF/maven/org.x/a/pom.properties", text)
    with zipfile.ZipFile(tmp_path / "some-thing-2.0.jar", "w") as archive:
        archive.writestr("x", "")
    listed = [str(component.purl) for component in sbom.bundled_jars(tmp_path)]
    assert listed == ["pkg:maven/org.x/a@1", "pkg:generic/some-thing@2.0"]


def test_debian_packages_keep_their_source_by_which_advisories_name_them() -> None:
    (component,) = sbom.debian_packages("libssl3\t3.0.1-1+b1\tamd64\topenssl\t3.0.1-1\n")
    assert str(component.purl) == "pkg:deb/debian/libssl3@3.0.1-1%2Bb1?arch=amd64"
    assert {found.name: found.value for found in component.properties} == {sbom.SOURCE: "openssl 3.0.1-1"}


def test_the_same_components_are_the_same_document() -> None:
    components = list(sbom.python_packages("a==1 \nb==2 \n"))
    first = sbom.bill_of_materials(components, "0.1.0")
    assert first == sbom.bill_of_materials([*reversed(components), *components], "0.1.0")
    assert names(first) == ["pkg:pypi/a@1", "pkg:pypi/b@2"]
    document = json.loads(first)
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "kintsugi"

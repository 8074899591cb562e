"""The scan finds what a small database in OSV's format names, and nothing else."""

from __future__ import annotations

import json
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from supply_chain import scan
from supply_chain.scan import Acceptance, Finding, Package


def record(ecosystem: str, name: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    """One advisory with one range."""
    affected = {"package": {"ecosystem": ecosystem, "name": name}}
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    return {
        "id": "GHSA-x",
        "aliases": ["CVE-1"],
        "summary": "bad",
        "affected": [affected | {"ranges": ranges} | more],
    }


@pytest.mark.parametrize(
    ("package", "events", "affected"),
    [
        (Package("PyPI", "a", "1.9"), [{"introduced": "0"}, {"fixed": "1.10"}], True),
        (Package("PyPI", "a", "1.10"), [{"introduced": "0"}, {"fixed": "1.10"}], False),
        (Package("PyPI", "a", "1.10rc1"), [{"introduced": "0"}, {"fixed": "1.10"}], True),
        (Package("Maven", "g:a", "4.3.1"), [{"introduced": "4.0.0"}, {"fixed": "4.3.2"}], True),
        (Package("Maven", "g:a", "3.9.2"), [{"introduced": "4.0.0"}, {"fixed": "4.3.2"}], False),
        (Package("Maven", "g:a", "1.0"), [{"introduced": "0"}, {"last_affected": "1.0"}], True),
        (Package("Maven", "g:a", "1.0.1"), [{"introduced": "0"}, {"last_affected": "1.0"}], False),
        (Package("Debian", "s", "1:3.0-1~deb12u1"), [{"introduced": "0"}, {"fixed": "1:3.0-1"}], True),
        (Package("Debian", "s", "1:3.0-2"), [{"introduced": "0"}, {"fixed": "1:3.0-1"}], False),
        # Two ranges in one list, out of order.
        (
            Package("PyPI", "a", "2.5"),
            [{"fixed": "3.0"}, {"introduced": "2.0"}, {"fixed": "1.2"}, {"introduced": "0"}],
            True,
        ),
        (
            Package("PyPI", "a", "1.5"),
            [{"fixed": "3.0"}, {"introduced": "2.0"}, {"fixed": "1.2"}, {"introduced": "0"}],
            False,
        ),
        (Package("PyPI", "a", "no version"), [{"introduced": "0"}, {"fixed": "1"}], True),
    ],
)
def test_a_version_is_compared_by_the_rules_of_its_ecosystem(
    package: Package, events: list[dict[str, str]], affected: bool
) -> None:
    found = scan.find_vulnerabilities([package], [record(package.ecosystem, package.name, *events)])
    assert bool(found) is affected


def test_a_listed_version_is_affected_and_a_withdrawn_record_does_not_count() -> None:
    listed = record("PyPI", "A", versions=["1.0"])
    package = Package("PyPI", "a", "1.0")
    (finding,) = scan.find_vulnerabilities([package], [listed])
    assert finding.ids == ("GHSA-x", "CVE-1")
    assert scan.find_vulnerabilities([package], [listed | {"withdrawn": "2026-01-01T00:00:00Z"}]) == []
    assert scan.find_vulnerabilities([Package("Maven", "a", "1.0")], [listed]) == []


FINDING = Finding(Package("PyPI", "a", "1.0"), ("GHSA-x", "CVE-1"), "bad", ("1.1",))


@pytest.mark.parametrize(
    ("given", "until", "lines"),
    [
        (("CVE-1", "a 1.0"), date(2027, 1, 1), 0),
        (("CVE-1", "a 0.9"), date(2027, 1, 1), 1),
        (("CVE-2", "a 1.0"), date(2027, 1, 1), 1),
        (("CVE-1", "a 1.0"), date(2026, 1, 1), 2),  # the finding, and the acceptance that ran out
    ],
)
def test_an_acceptance_covers_one_finding_until_its_day(
    given: tuple[str, str], until: date, lines: int
) -> None:
    accepted = [Acceptance(*given, reason="why", accepted=date(2025, 12, 1), until=until)]
    assert len(scan.list_open_findings([FINDING], accepted, date(2026, 6, 1))) == lines


def test_every_acceptance_of_the_repository_has_a_reason_and_dates() -> None:
    for entry in scan.read_accepted():
        assert len(entry.reason) > 20
        assert entry.accepted < entry.until


def test_the_command_tells_findings_acceptances_and_a_missing_database_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    components = [
        {"purl": "pkg:maven/org.apache.kafka/kafka-clients@4.3.1"},
        {"purl": "pkg:pypi/requests@2.34.2"},
        {"purl": "pkg:generic/x@1"},
        {
            "purl": "pkg:deb/debian/libssl3@3.0.1-1?arch=amd64",
            "properties": [{"name": "kintsugi:debian-source", "value": "openssl 3.0.1-1"}],
        },
    ]
    (tmp_path / "sbom.json").write_text(json.dumps({"components": components}))
    (tmp_path / "accepted.yaml").write_text("")
    command = ["--sbom", str(tmp_path / "sbom.json"), "--accepted", str(tmp_path / "accepted.yaml")]
    command += ["--database", str(tmp_path / "osv")]
    assert scan.main(command) == scan.NO_DATABASE
    assert "OSV_DATABASE" in capsys.readouterr().err

    kafka = record("Maven", "org.apache.kafka:kafka-clients", {"introduced": "0"}, {"fixed": "4.3.2"})
    openssl = record("Debian:12", "openssl", {"introduced": "0"}, {"fixed": "3.0.2-1"})
    (tmp_path / "osv/Maven").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "osv/Maven/all.zip", "w") as archive:
        archive.writestr("GHSA-x.json", json.dumps(kafka))
    (tmp_path / "osv/Debian").mkdir()
    (tmp_path / "osv/Debian/DSA-1.json").write_text(json.dumps(openssl | {"id": "DSA-1"}))
    assert scan.main(command) == 1
    said = capsys.readouterr().out
    assert "kafka-clients 4.3.1: GHSA-x CVE-1" in said
    assert "fixed in 4.3.2" in said
    assert "openssl 3.0.1-1: DSA-1" in said

    (tmp_path / "accepted.yaml").write_text(
        "".join(
            f"- {{id: CVE-1, package: '{name}', reason: why, accepted: 2026-01-01, until: 9999-01-01}}\n"
            for name in ("org.apache.kafka:kafka-clients 4.3.1", "openssl 3.0.1-1")
        )
    )
    assert scan.main(command) == 0

"""A release is rolled out only if the jars that it needs are in the cache."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.cassandra_racks import record_zones
from kintsugi.core.errors import GuardRefused
from kintsugi.infra import artifacts
from kintsugi.releases import archive, release_checks
from kintsugi.releases.archive import Release
from tests.installations import give_zones, installation


@pytest.fixture
def release(tmp_path: Path) -> tuple[Any, Release]:
    """A release whose sets have one jar each, and the context of a roll-out with an empty cache."""
    source = tmp_path / "source"
    (source / "ansible/roles/kafka").mkdir(parents=True)
    (source / "ansible/roles/kafka/main.yml").touch()
    settings = replace(installation(tmp_path / "here", "127.40"), cache=tmp_path / "cache")
    for name in ("cassandra", "kafka", "spark"):
        (source / "artifacts" / name).mkdir(parents=True)
        (source / "artifacts" / name / "pom.xml").write_text(f"<project>{name}</project>")
        lock = f"{hashlib.sha256(name.encode()).hexdigest()}  {name}.jar\n"
        (source / "artifacts" / name / "jars.sha256").write_text(lock)
    return SimpleNamespace(settings=settings), archive.build_release(settings, source, settings.fleet_file)


def put_jar(pom: Path, directory: Path) -> None:
    (directory / f"{pom.parent.name}.jar").write_text(pom.parent.name)


def test_a_release_whose_jars_are_not_in_the_cache_is_refused(
    release: tuple[Any, Release],
) -> None:
    context, built = release
    with pytest.raises(GuardRefused, match="cassandra, kafka, spark"):
        release_checks._check_artifacts(context, built)
    artifacts.ensure(replace(context.settings, repository=built.directory), put_jar)
    release_checks._check_artifacts(context, built)


def test_a_stored_release_without_lock_files_takes_the_jars_of_its_time(
    release: tuple[Any, Release], tmp_path: Path
) -> None:
    context, built = release
    artifacts.ensure(replace(context.settings, repository=built.directory), put_jar)
    for lock in (tmp_path / "source").rglob("jars.sha256"):
        lock.unlink()
    old = archive.build_release(context.settings, tmp_path / "source", context.settings.fleet_file)
    assert archive.find_release(context.settings, old.digest) == old
    with pytest.raises(GuardRefused, match="cassandra, kafka, spark"):
        release_checks._check_artifacts(context, old)
    for name in ("cassandra", "kafka", "spark"):
        folder = context.settings.artifacts / name
        folder.mkdir()
        pom = old.directory / "artifacts" / name / "pom.xml"
        (folder / ".pom.sha256").write_text(hashlib.sha256(pom.read_bytes()).hexdigest())
    release_checks._check_artifacts(context, old)


def test_a_release_that_moves_cassandra_into_other_zones_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = installation(tmp_path / "here", "127.40"), installation(tmp_path / "there", "127.40")
    context: Any = SimpleNamespace(settings=here, fleet=here.fleet)
    release = Release("0" * 64, there.fleet_file.parent)
    record_zones(here, {})
    give_zones(there, {"cassandra-1": "a", "cassandra-2": "b", "cassandra-3": "c"})
    with pytest.raises(GuardRefused, match=r"000000000000.*cassandra-1: a"):
        release_checks.check_fit(context, release)
    give_zones(there, {"kafka-1": "a", "kafka-2": "b", "kafka-3": "c"})
    monkeypatch.setattr(release_checks, "_check_artifacts", lambda *_: None)
    release_checks.check_fit(context, release)

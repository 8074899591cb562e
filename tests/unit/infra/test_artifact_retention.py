"""Several checkouts and installations share the cache: a set is removed only when nobody needs it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from kintsugi.core.settings import Settings, load_settings
from kintsugi.infra import artifact_retention, artifacts
from kintsugi.infra.artifact_retention import NEEDED_BY, remove_unneeded

AMONG = ("kafka",)


def put_jar(pom: Path, directory: Path) -> None:
    (directory / "kafka.jar").write_text(pom.read_text())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def checkout(root: Path, name: str, version: str) -> Settings:
    """A checkout, or the directory of a release, whose Kafka has this version; its jars are in the common cache."""
    repository = root / name
    pom = repository / "artifacts/kafka/pom.xml"
    pom.parent.mkdir(parents=True, exist_ok=True)
    pom.write_text(version)
    settings = dataclasses.replace(load_settings(), cache=root / "cache", repository=repository)
    settings.jar_lock("kafka").write_text(f"{hashlib.sha256(version.encode()).hexdigest()}  kafka.jar\n")
    artifacts.ensure(settings, put_jar)
    return settings


def test_a_set_stays_until_the_last_who_needs_it_is_gone(root: Path) -> None:
    one, other = checkout(root, "one", "4.3.1"), checkout(root, "other", "4.3.1")
    jars = one.jars("kafka")
    assert remove_unneeded(one, [one.repository], AMONG) == []
    assert jars.is_dir()
    assert remove_unneeded(one, [other.repository], AMONG) == [jars.name]
    assert not jars.exists()
    assert [path.name for path in one.artifacts.iterdir()] == [".lock"]


def test_a_checkout_with_another_version_needs_the_old_jars_no_longer(root: Path) -> None:
    settings = checkout(root, "one", "4.3.1")
    old = settings.jars("kafka")
    checkout(root, "one", "4.4.0")
    assert remove_unneeded(settings, [], AMONG) == [old.name]
    assert settings.jars("kafka").is_dir()


def test_an_installation_that_was_removed_needs_nothing(root: Path) -> None:
    settings = checkout(root, "one", "4.3.1")
    jars = settings.jars("kafka")
    settings.jar_lock("kafka").unlink()
    assert remove_unneeded(settings, [], AMONG) == [jars.name]


def test_who_needs_a_set_is_recorded_also_when_nothing_is_fetched(root: Path) -> None:
    one = checkout(root, "one", "4.3.1")
    checkout(root, "other", "4.3.1")
    lines = (one.jars("kafka") / NEEDED_BY).read_text().splitlines()
    assert lines == [
        str((root / name / "artifacts/kafka/jars.sha256").resolve()) for name in ("one", "other")
    ]
    checkout(root, "other", "4.3.1")
    assert (one.jars("kafka") / NEEDED_BY).read_text().splitlines() == lines
    one.jar_lock("kafka").unlink()  # who is gone is forgotten at the next entry
    third = checkout(root, "third", "4.3.1")
    assert len((third.jars("kafka") / NEEDED_BY).read_text().splitlines()) == len(lines)


def test_a_set_of_which_nothing_is_recorded_stays(root: Path) -> None:
    settings = checkout(root, "one", "4.3.1")
    (settings.jars("kafka") / NEEDED_BY).unlink()
    assert remove_unneeded(settings, [settings.repository], AMONG) == []
    # Nor once somebody needs it: an installation from before this record may need it too.
    artifact_retention.mark_needed(settings, ["kafka"])
    assert remove_unneeded(settings, [settings.repository], AMONG) == []


def test_a_cache_that_is_not_ours_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = checkout(root, "one", "4.3.1")
    (settings.jars("kafka") / NEEDED_BY).unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    artifact_retention.mark_needed(settings, ["kafka"])
    assert not (settings.jars("kafka") / NEEDED_BY).exists()
    monkeypatch.undo()
    artifact_retention.mark_needed(settings, ["kafka"])
    assert (settings.jars("kafka") / NEEDED_BY).exists()


def test_without_a_cache_nothing_is_removed(root: Path) -> None:
    assert remove_unneeded(dataclasses.replace(load_settings(), cache=root / "none"), [], AMONG) == []


def test_the_jars_of_the_control_plane_stay(root: Path) -> None:
    settings = checkout(root, "one", "4.3.1")
    old = settings.jars("kafka")
    checkout(root, "one", "4.4.0")
    assert remove_unneeded(settings, [], ("cassandra", "spark")) == []
    assert old.is_dir()
    assert remove_unneeded(settings, [], AMONG) == [old.name]

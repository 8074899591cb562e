"""Another version of Kafka: it must know the features that the cluster uses, and so must the one to return to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import REPOSITORY
from kintsugi.releases import release_features
from kintsugi.releases.archive import Release
from kintsugi.releases.release_artifacts import settings_of
from kintsugi.releases.release_features import format_level, unknown_level
from tests.installations import installation

V4_3, V4_4 = {"metadata.version": 30, "share.version": 1}, {"metadata.version": 33, "share.version": 2}
OLD, NEW = "4.3-IV0", "4.4-IV2"


@pytest.mark.parametrize(
    ("used", "known", "odd"),
    [
        (V4_3, V4_3, None),
        (V4_3, V4_4, None),
        (V4_4, V4_3, "metadata.version"),
        ({"share.version": 2}, V4_3, "share.version"),
        ({"of.the.future": 1}, V4_4, "of.the.future"),
        ({"of.the.future": 0}, V4_4, None),
        ({}, V4_3, None),
    ],
)
def test_a_kafka_must_know_each_feature_at_the_level_that_is_used(
    used: dict[str, int], known: dict[str, int], odd: str | None
) -> None:
    problem = unknown_level(used, known)
    assert (problem or "").startswith(odd or "")
    assert (problem is None) == (odd is None)


class Kafkas:
    """Releases with Kafka 4.3 or 4.4, and a cluster that uses some features."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.context: Any = SimpleNamespace(settings=installation(directory, "127.40"))
        self.used = V4_3
        self.asked: list[Path] = []
        self.levels: dict[Path, dict[str, int]] = {}
        monkeypatch.setattr(release_features, "read_used_levels", lambda _: self.used)
        monkeypatch.setattr(release_features, "known_levels", self.known_levels)

    def release(self, known: dict[str, int], formats_for: str) -> Release:
        number = len(self.levels)
        release = Release(
            hashlib.sha256(str(number).encode()).hexdigest(), self.directory / f"release-{number}"
        )
        variables = release.directory / "ansible/roles/kafka/vars/main.yml"
        variables.parent.mkdir(parents=True)
        variables.write_text(f'kafka_storage: {{release_version: "{formats_for}"}}\n')
        lock = release.directory / "artifacts/kafka/jars.sha256"
        lock.parent.mkdir(parents=True)
        lock.write_text(str(known))
        self.levels[settings_of(self.context.settings, release).jars("kafka")] = known
        return release

    def known_levels(self, jars: Path, release_version: str = "") -> dict[str, int]:
        self.asked.append(jars)
        return {OLD: V4_3, NEW: V4_4, "": self.levels[jars]}[release_version]

    def check(self, release: Release, back_to: Release | None) -> None:
        release_features.check_features(self.context, release, back_to)


@pytest.fixture
def kafkas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kafkas:
    return Kafkas(tmp_path, monkeypatch)


def test_a_newer_kafka_with_the_features_of_the_older_is_rolled_out_in_both_directions(
    kafkas: Kafkas,
) -> None:
    old, new = kafkas.release(V4_3, OLD), kafkas.release(V4_4, OLD)
    kafkas.check(new, old)
    kafkas.check(old, new)


def test_nothing_is_asked_where_the_version_stays_or_nothing_is_known_good(kafkas: Kafkas) -> None:
    old, same = kafkas.release(V4_3, OLD), kafkas.release(V4_3, OLD)
    kafkas.check(same, old)
    kafkas.check(same, None)
    assert kafkas.asked == []


def test_after_the_features_were_raised_the_older_kafka_is_neither_rolled_out_nor_returned_to(
    kafkas: Kafkas,
) -> None:
    old, new = kafkas.release(V4_3, OLD), kafkas.release(V4_4, OLD)
    kafkas.used = V4_4
    with pytest.raises(GuardRefused, match=rf"{old.short}.*would not start.*metadata\.version is 33"):
        kafkas.check(old, new)
    with pytest.raises(GuardRefused, match=rf"{new.short}.*could not be rolled back.*{old.short}"):
        kafkas.check(new, old)


@pytest.mark.parametrize("formats_for", [NEW, ""])
def test_a_release_that_raises_version_and_features_at_once_is_refused(
    kafkas: Kafkas, formats_for: str
) -> None:
    old, new = kafkas.release(V4_3, OLD), kafkas.release(V4_4, formats_for)
    with pytest.raises(GuardRefused, match=r"rebuilt.*metadata\.version is 33.*release_version"):
        kafkas.check(new, old)


def test_the_level_is_read_from_the_role_of_the_release() -> None:
    assert format_level(Release("0" * 64, REPOSITORY)) == "4.3-IV0"

"""The jars of releases: fetched before a node is changed, kept as long as a node may need them, then removed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.settings import Settings
from kintsugi.db.store import Deployment, ReleaseRecord
from kintsugi.infra import artifacts, class_data_sharing
from kintsugi.releases import archive, assignment, release_artifacts
from kintsugi.releases.archive import Release
from kintsugi.releases.release_artifacts import needed_releases, settings_of
from tests.installations import installation

NOW = datetime(2026, 11, 30, tzinfo=UTC)
NAMES = ("cassandra", "kafka", "spark")


def record(digest: str, *, good_at: int | None = None, bad: bool = False) -> ReleaseRecord:
    """``good_at``: the hour at which it became known-good."""
    at = None if good_at is None else NOW + timedelta(hours=good_at)
    return ReleaseRecord(digest, "test", NOW, at, NOW if bad else None, "bad" if bad else None)


def pom(version: str) -> str:
    return f"<dependency><artifactId>kafka_2.13</artifactId><version>{version}</version></dependency>"


class Cache:
    """An installation with an empty cache, whose releases differ in the version of Kafka."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = replace(installation(directory / "here", "127.40"), cache=directory / "cache")
        self.scratch = directory
        self.good: list[ReleaseRecord] = []
        self.nodes: dict[str, ReleaseRecord] = {}
        self.deployments: list[Deployment] = []
        self.fetched: list[Path] = []
        self.refuses: str | None = None
        store = SimpleNamespace(
            last_known_good=lambda: max(self.good, key=lambda one: one.known_good_at or NOW, default=None),
            node_releases=lambda: self.nodes,
            read_releases=lambda _: self.good,
            read_deployments=lambda: self.deployments,
        )
        self.context: Any = SimpleNamespace(settings=self.settings, store=store)
        self.archived: list[Path] = []
        monkeypatch.setattr(artifacts, "fetch_by_maven", self.fetch)
        monkeypatch.setattr(class_data_sharing, "make_archives", self.make_archives)
        monkeypatch.setattr(assignment, "open_release", lambda _, digest: self.open(digest))

    def release(self, version: str, *, locked: bool = True) -> Release:
        source = self.scratch / f"source-{version}-{locked}"
        (source / "ansible/roles/kafka").mkdir(parents=True)
        (source / "ansible/roles/kafka/main.yml").touch()
        for name in NAMES:
            folder = source / "artifacts" / name
            folder.mkdir(parents=True)
            of_kafka = name == "kafka"
            (folder / "pom.xml").write_text(pom(version) if of_kafka else "<project/>")
            content = version if of_kafka else name
            if locked:
                (folder / "jars.sha256").write_text(
                    f"{hashlib.sha256(content.encode()).hexdigest()}  {name}.jar\n"
                )
        return archive.build_release(self.settings, source, self.settings.fleet_file)

    def open(self, digest: str) -> Release:
        return archive.find_release(self.settings, digest)

    def fetch(self, of: Path, directory: Path) -> None:
        if self.refuses:
            raise KintsugiError(self.refuses)
        self.fetched.append(of)
        versions = [version for version in ("4.3.1", "4.4.0") if version in of.read_text()]
        (directory / f"{of.parent.name}.jar").write_text((versions or [of.parent.name])[0])

    def make_archives(self, settings: Settings, products: Iterable[str]) -> list[Path]:
        self.archived += [settings.jars(product) for product in products]
        return []

    def kafka(self, release: Release) -> Path:
        return settings_of(self.settings, release).jars("kafka")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    return Cache(tmp_path, monkeypatch)


def test_two_versions_of_kafka_lie_side_by_side(cache: Cache) -> None:
    old, new = cache.release("4.3.1"), cache.release("4.4.0")
    cache.good, cache.nodes = [record(old.digest, good_at=1)], {"kafka-1": record(old.digest, good_at=1)}
    assert release_artifacts.provide_artifacts(cache.context, old) == list(NAMES)
    assert release_artifacts.provide_artifacts(cache.context, new) == ["kafka"]
    assert cache.kafka(old) != cache.kafka(new)
    assert [(cache.kafka(one) / "kafka.jar").read_text() for one in (old, new)] == ["4.3.1", "4.4.0"]
    assert release_artifacts.provide_artifacts(cache.context, new) == []
    assert release_artifacts.describe_versions(old, new) == "kafka_2.13 4.3.1 → 4.4.0"
    assert release_artifacts.describe_versions(old, old) == ""


def test_the_jars_of_the_roll_back_and_of_the_nodes_own_release_are_fetched_too(cache: Cache) -> None:
    """Else the first failed probe, or a recovery during the roll-out, would need a download."""
    good, own, new = cache.release("4.3.1"), cache.release("4.3.0"), cache.release("4.4.0")
    cache.good, cache.nodes = [record(good.digest, good_at=1)], {"kafka-1": record(own.digest)}
    with pytest.raises(
        GuardRefused, match=own.short
    ):  # 4.3.0: Maven gives other bytes than the lock file names
        release_artifacts.provide_artifacts(cache.context, new)
    assert cache.kafka(new).is_dir()
    cache.nodes = {}
    release_artifacts.provide_artifacts(cache.context, new)
    assert cache.kafka(good).is_dir()


def test_jars_that_cannot_be_had_refuse_the_roll_out_with_the_reason(cache: Cache) -> None:
    cache.refuses = "Maven could not fetch the jars: no route"
    release = cache.release("4.4.0")
    with pytest.raises(GuardRefused, match=rf"no node was changed.*{release.short}.*no route"):
        release_artifacts.provide_artifacts(cache.context, release)


def test_containers_have_the_jars_of_their_image_only(cache: Cache) -> None:
    """A jar that the control plane's container fetched would not be in the containers of the nodes."""
    release = cache.release("4.4.0")
    fleet_file = cache.settings.fleet_file
    text = fleet_file.read_text()
    fleet_file.write_text(text.replace("environment: local", "environment: docker"))
    with pytest.raises(GuardRefused, match="image"):
        release_artifacts.fetch_artifacts(cache.context, release)
    assert cache.fetched == []
    fleet_file.write_text(text)
    release_artifacts.fetch_artifacts(cache.context, release)


def test_a_release_without_lock_files_takes_the_jars_of_its_time(cache: Cache) -> None:
    old = cache.release("4.3.1", locked=False)
    with pytest.raises(GuardRefused, match="cassandra, kafka, spark"):
        release_artifacts.fetch_artifacts(cache.context, old)
    cache.nodes = {"kafka-1": record(old.digest)}
    new = cache.release("4.4.0")
    # The way out: a release with lock files is not refused because of what the nodes run.
    assert release_artifacts.provide_artifacts(cache.context, new) == list(NAMES)
    for name in NAMES:
        folder = cache.settings.artifacts / name
        folder.mkdir()
        of = old.directory / "artifacts" / name / "pom.xml"
        (folder / ".pom.sha256").write_text(hashlib.sha256(of.read_bytes()).hexdigest())
    assert release_artifacts.fetch_artifacts(cache.context, old) == []


def test_only_the_new_release_gets_class_archives(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that appears would be a drift on the nodes that run the old release."""
    old, new = cache.release("4.3.1"), cache.release("4.4.0")
    cache.good = [record(old.digest, good_at=1)]
    release_artifacts.provide_artifacts(cache.context, new)
    assert cache.archived == [settings_of(cache.settings, new).jars(name) for name in ("cassandra", "kafka")]

    def fail(*_: Any) -> None:
        raise StepFailed("no start")

    monkeypatch.setattr(class_data_sharing, "make_archives", fail)
    release_artifacts.provide_artifacts(cache.context, new)  # it starts later, but it starts


def deployment(digest: str, back_to: str | None) -> Deployment:
    return Deployment("run", digest, back_to, "running", None, None, NOW, None)


GOOD = [record(name, good_at=hour) for hour, name in enumerate("abcdef")]


@pytest.mark.parametrize(
    ("releases", "nodes", "running", "needed"),
    [
        ([], {}, [], ""),
        (GOOD, {}, [], "fed"),
        ([*GOOD, record("g"), record("h", good_at=9, bad=True)], {}, [], "fed"),
        (GOOD, {"kafka-1": record("a")}, [], "feda"),
        (GOOD, {"kafka-1": record("x", bad=True)}, [], "fedx"),
        (GOOD, {}, [deployment("y", "b")], "fedyb"),
        (GOOD, {}, [deployment("y", None)], "fedy"),
    ],
)
def test_a_release_keeps_its_jars_as_long_as_a_node_may_need_them(
    releases: list[ReleaseRecord], nodes: dict[str, ReleaseRecord], running: list[Deployment], needed: str
) -> None:
    assert needed_releases(releases, nodes, running) == set(needed)


def test_the_jars_of_retired_releases_are_removed(cache: Cache) -> None:
    build: Callable[[str], Release] = cache.release
    old, new = build("4.3.1"), build("4.4.0")
    for release in (old, new):
        release_artifacts.provide_artifacts(cache.context, release)
    cache.good = [record(old.digest, good_at=1), record(new.digest, good_at=2)]
    assert release_artifacts.remove_unneeded(cache.context) == []
    others = [record(letter * 64, good_at=hour) for hour, letter in enumerate("abc", 3)]
    cache.good, cache.nodes = [record(old.digest, good_at=1), *others], {"kafka-1": record(new.digest)}
    removed = cache.kafka(old)
    assert release_artifacts.remove_unneeded(cache.context) == [removed.name]
    assert not removed.exists()
    assert cache.kafka(new).is_dir()
    assert release_artifacts.fetch_artifacts(cache.context, old) == [
        "kafka"
    ]  # and by hand it can be returned to

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings, load_settings
from kintsugi.infra import artifacts


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A checkout that declares one set of jars, and an empty cache."""
    pom = tmp_path / "checkout/artifacts/kafka/pom.xml"
    pom.parent.mkdir(parents=True)
    pom.write_text("<project>1</project>")
    return dataclasses.replace(load_settings(), cache=tmp_path / "cache", repository=tmp_path / "checkout")


class Maven:
    """Puts the given jars there and counts how often it was asked."""

    def __init__(self, **jars: str) -> None:
        self.jars = jars
        self.calls = 0

    def __call__(self, pom: Path, directory: Path) -> None:
        self.calls += 1
        for name, content in self.jars.items():
            (directory / f"{name}.jar").write_text(content)


def test_second_time_fetches_nothing(settings: Settings) -> None:
    maven = Maven(kafka="one")
    assert artifacts.missing_sets(settings) == ["kafka"]
    assert artifacts.fetch_missing(settings, maven) == ["kafka"]
    assert artifacts.fetch_missing(settings, maven) == []
    assert maven.calls == 1
    assert artifacts.missing_sets(settings) == []


def test_changed_pom_replaces_the_whole_set(settings: Settings) -> None:
    artifacts.fetch_missing(settings, Maven(old="one"))
    (settings.repository / "artifacts/kafka/pom.xml").write_text("<project>2</project>")
    artifacts.fetch_missing(settings, Maven(new="two"))
    assert [jar.name for jar in (settings.artifacts / "kafka").glob("*.jar")] == ["new.jar"]


def test_what_was_made_from_another_pom_is_outdated(settings: Settings) -> None:
    pom = settings.repository / "artifacts/kafka/pom.xml"
    wanted = {"kafka": hashlib.sha256(pom.read_bytes()).hexdigest()}
    assert artifacts.outdated_sets(settings, wanted) == ["kafka"]
    artifacts.fetch_missing(settings, Maven(kafka="one"))
    assert artifacts.outdated_sets(settings, wanted) == []
    assert artifacts.outdated_sets(settings, {"kafka": "0" * 64}) == ["kafka"]


def test_interrupted_fetch_leaves_nothing_half_done(settings: Settings) -> None:
    def killed(pom: Path, directory: Path) -> None:
        (directory / "half.jar").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifacts.fetch_missing(settings, killed)
    assert [path.name for path in settings.artifacts.iterdir()] == [".lock"]
    assert artifacts.fetch_missing(settings, Maven(kafka="one")) == ["kafka"]


def test_same_jars_stay_the_same_files_because_servers_hold_them_open(settings: Settings) -> None:
    folder = settings.artifacts / "kafka"
    folder.mkdir(parents=True)
    (folder / "kafka.jar").write_text("one")
    inode = (folder / "kafka.jar").stat().st_ino
    artifacts.fetch_missing(settings, Maven(kafka="one"))
    assert (folder / "kafka.jar").stat().st_ino == inode
    assert artifacts.missing_sets(settings) == []


def test_pom_without_a_jar_is_an_error_that_names_it(settings: Settings) -> None:
    with pytest.raises(KintsugiError, match=r"kafka/pom\.xml"):
        artifacts.fetch_missing(settings, Maven())


def test_this_checkout_declares_what_the_nodes_and_the_control_plane_run() -> None:
    assert artifacts.declared_sets(load_settings()) == ["cassandra", "kafka", "s3proxy", "spark", "web"]

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from pathlib import Path

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings, load_settings
from kintsugi.infra import artifacts
from kintsugi.infra.artifacts import JarMismatchError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A checkout that declares one set of jars, and an empty cache."""
    pom = tmp_path / "checkout/artifacts/kafka/pom.xml"
    pom.parent.mkdir(parents=True)
    pom.write_text("<project>1</project>")
    made = dataclasses.replace(load_settings(), cache=tmp_path / "cache", repository=tmp_path / "checkout")
    lock(made, kafka="one")
    return made


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def lock(settings: Settings, **jars: str) -> None:
    """Write a lock file that names these jars by their content."""
    lines = [f"{sha256(content)}  {name}.jar\n" for name, content in sorted(jars.items())]
    settings.jar_lock("kafka").write_text("".join(lines))


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
    assert artifacts.missing(settings) == ["kafka"]
    assert artifacts.ensure(settings, maven) == ["kafka"]
    assert artifacts.ensure(settings, maven) == []
    assert maven.calls == 1
    assert artifacts.missing(settings) == []


def test_jars_of_another_lock_file_lie_beside_the_old_ones(settings: Settings) -> None:
    artifacts.ensure(settings, Maven(kafka="one"))
    old = settings.jars("kafka")
    lock(settings, kafka="two")
    assert artifacts.missing(settings) == ["kafka"]
    artifacts.ensure(settings, Maven(kafka="two"))
    assert settings.jars("kafka") != old
    assert (old / "kafka.jar").read_text() == "one"
    assert (settings.jars("kafka") / "kafka.jar").read_text() == "two"


@pytest.mark.parametrize(
    ("fetched", "said"),
    [
        ({"kafka": "evil"}, rf"kafka\.jar .* expected SHA-256 {sha256('one')}, actual {sha256('evil')}"),
        ({"kafka": "one", "more": "x"}, r"more\.jar is not in the lock file"),
        ({"other": "one"}, r"kafka\.jar is missing"),
    ],
)
def test_jars_that_the_lock_file_does_not_name_are_refused(
    settings: Settings, fetched: dict[str, str], said: str
) -> None:
    with pytest.raises(JarMismatchError, match=said) as refused:
        artifacts.ensure(settings, Maven(**fetched))
    assert "make lock" in str(refused.value)
    assert not settings.jars("kafka").exists()
    assert artifacts.missing(settings) == ["kafka"]


def test_a_jar_that_was_changed_in_the_cache_is_refused(settings: Settings) -> None:
    artifacts.ensure(settings, Maven(kafka="one"))
    assert artifacts.altered(settings) == []
    jar = settings.jars("kafka") / "kafka.jar"
    jar.write_text("other")
    (problem,) = artifacts.altered(settings)
    for part in (str(jar), sha256("one"), sha256("other"), f"delete {jar.parent}"):
        assert part in problem
    with pytest.raises(JarMismatchError, match=r"kafka\.jar"):
        artifacts.ensure(settings, Maven(kafka="one"))


def test_jars_added_or_removed_in_the_cache_are_named(settings: Settings) -> None:
    artifacts.ensure(settings, Maven(kafka="one"))
    (settings.jars("kafka") / "more.jar").write_text("x")
    (settings.jars("kafka") / "kafka.jar").unlink()
    removed, added = artifacts.altered(settings)
    assert "kafka.jar is missing" in removed
    assert "more.jar is not in the lock file" in added


def test_a_start_reads_no_jar_and_the_full_check_reads_all(settings: Settings) -> None:
    artifacts.ensure(settings, Maven(kafka="one"))
    jar = settings.jars("kafka") / "kafka.jar"
    before = jar.stat()
    jar.write_text("eno")  # of the same size, and then of the same time
    os.utime(jar, (before.st_atime, before.st_mtime))
    assert artifacts.altered(settings) == []
    assert re.search(f"{sha256('one')}, actual {sha256('eno')}", artifacts.check_all(settings)[0])


def test_a_changed_pom_with_the_same_jars_leaves_them_because_servers_hold_them_open(
    settings: Settings,
) -> None:
    artifacts.ensure(settings, Maven(kafka="one"))
    inode = (settings.jars("kafka") / "kafka.jar").stat().st_ino
    (settings.repository / "artifacts/kafka/pom.xml").write_text("<project>2</project>")
    assert artifacts.missing(settings) == ["kafka"]
    artifacts.ensure(settings, Maven(kafka="one"))
    assert artifacts.missing(settings) == []
    assert (settings.jars("kafka") / "kafka.jar").stat().st_ino == inode


def test_the_jars_of_a_release_without_lock_files_are_found_by_its_pom(settings: Settings) -> None:
    settings.jar_lock("kafka").unlink()
    assert settings.jars("kafka") == settings.artifacts / "kafka"
    assert artifacts.missing(settings) == ["kafka"]
    settings.jars("kafka").mkdir(parents=True)
    pom = settings.repository / "artifacts/kafka/pom.xml"
    (settings.jars("kafka") / ".pom.sha256").write_text(hashlib.sha256(pom.read_bytes()).hexdigest())
    assert artifacts.missing(settings) == []
    pom.write_text("<project>2</project>")
    assert artifacts.missing(settings) == ["kafka"]


def test_interrupted_fetch_leaves_nothing_half_done(settings: Settings) -> None:
    def killed(pom: Path, directory: Path) -> None:
        (directory / "half.jar").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifacts.ensure(settings, killed)
    assert [path.name for path in settings.artifacts.iterdir()] == [".lock"]
    assert artifacts.ensure(settings, Maven(kafka="one")) == ["kafka"]


def test_pom_without_a_jar_is_an_error_that_names_it(settings: Settings) -> None:
    with pytest.raises(KintsugiError, match=r"kafka/pom\.xml"):
        artifacts.ensure(settings, Maven())


def test_a_lock_file_is_what_sha256sum_reads(settings: Settings) -> None:
    def repository(pom: Path, directory: Path) -> None:
        for jar, content in (("org/x/kafka/2/kafka-2.jar", "two"), ("b/a/1/a-1-linux.jar", "x")):
            (directory / jar).parent.mkdir(parents=True)
            (directory / jar).write_text(content)

    locks = settings.jar_lock("kafka"), settings.jar_lock("kafka").with_name(artifacts.COORDINATES)
    assert artifacts.write_locks(settings, repository) == list(locks)
    assert locks[0].read_text() == f"{sha256('x')}  a-1-linux.jar\n{sha256('two')}  kafka-2.jar\n"
    assert locks[1].read_text() == "a-1-linux.jar  b:a:1\nkafka-2.jar  org.x:kafka:2\n"
    assert artifacts.write_locks(settings, repository) == []


@pytest.mark.parametrize("text", ["no line", f"{'0' * 63}  kafka.jar\n", f"{'0' * 64} kafka.jar\n"])
def test_a_damaged_lock_file_is_an_error_that_names_it(settings: Settings, text: str) -> None:
    settings.jar_lock("kafka").write_text(text)
    with pytest.raises(KintsugiError, match=r"jars\.sha256"):
        artifacts.read_lock(settings.jar_lock("kafka"))


def test_this_checkout_declares_what_the_nodes_and_the_control_plane_run() -> None:
    assert artifacts.names(load_settings()) == ["cassandra", "kafka", "s3proxy", "spark", "web"]


@pytest.mark.parametrize("name", ["cassandra", "kafka", "s3proxy", "spark", "web"])
def test_the_lock_file_names_what_the_pom_names(name: str) -> None:
    settings = load_settings()
    pom = (settings.repository / "artifacts" / name / "pom.xml").read_text()
    declared = re.findall(r"<artifactId>([^<]+)</artifactId><version>([^<]+)</version></dependency>", pom)
    locked = artifacts.read_lock(settings.jar_lock(name))
    assert declared
    assert {f"{artifact}-{version}.jar" for artifact, version in declared} <= locked.keys()
    coordinates = settings.jar_lock(name).with_name(artifacts.COORDINATES).read_text().splitlines()
    assert [line.split("  ")[0] for line in coordinates] == list(locked)

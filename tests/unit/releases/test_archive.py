"""Releases on disk and in S3: the same bytes, never overwritten, never taken for what they aren't."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from kintsugi.core.errors import FleetError
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.releases import archive
from kintsugi.releases import manifest as content
from kintsugi.releases.archive import MANIFEST, Release
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path / "here", "127.40")


@pytest.fixture
def release(settings: Settings) -> Release:
    return archive.build(settings)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client


def test_the_same_tree_makes_the_same_release_once(settings: Settings, release: Release) -> None:
    before = (release.directory / MANIFEST).stat().st_mtime_ns
    assert archive.build(settings) == release
    assert (release.directory / MANIFEST).stat().st_mtime_ns == before
    assert [found.digest for found in archive.on_disk(settings)] == [release.digest]
    assert archive.digest_of(settings) == release.digest


def test_a_release_holds_the_fleet_file_in_force(settings: Settings, release: Release) -> None:
    assert release.fleet_file.read_text() == settings.fleet_file.read_text()
    assert release.fleet_file.read_text() != (REPOSITORY / "fleet.yaml").read_text()


def test_a_broken_fleet_file_makes_no_release(settings: Settings) -> None:
    settings.fleet_file.write_text("nodes: {")
    with pytest.raises(FleetError, match="not YAML"):
        archive.build(settings)
    assert archive.on_disk(settings) == []


def test_a_build_that_was_killed_leaves_no_release(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(content, "render", lambda manifest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            archive.build(settings)
    assert archive.on_disk(settings) == []
    archive.verify_release(archive.build(settings))


@pytest.mark.parametrize("how", ["edit", "remove", "add"])
def test_an_altered_release_is_refused_by_the_name_of_the_file(
    settings: Settings, release: Release, how: str
) -> None:
    path = release.directory / "ansible/roles/kafka/defaults/main.yml"
    if how == "edit":
        path.chmod(0o644)
        path.write_text("kafka_heap: 1m\n")
    elif how == "remove":
        path.unlink()
    else:
        path = path.with_name("more.yml")
        path.write_text("kafka_heap: 1m\n")
    with pytest.raises(FleetError, match=f"was altered: .*{path.name}"):
        archive.find_release(settings, release.digest)


def test_what_python_leaves_behind_alters_nothing(settings: Settings, release: Release) -> None:
    cache = release.directory / "spark_apps/__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_bytes(b"x")
    assert archive.find_release(settings, release.digest) == release


@pytest.mark.parametrize("gone", ["directory", "altered"])
def test_a_lost_release_comes_back_from_s3(
    settings: Settings, release: Release, s3: Any, tmp_path: Path, gone: str
) -> None:
    s3.put_object(Bucket=BUCKET, Key=archive.key(release.digest), Body=archive.pack_release(release))
    if gone == "directory":
        release.directory.rename(tmp_path / "away")
    else:
        (release.directory / "fleet.yaml").chmod(0o644)
        (release.directory / "fleet.yaml").write_text("")
    found = archive.find_release(settings, release.digest, s3)
    assert found == release
    archive.verify_release(found)


def test_an_object_that_is_something_else_is_refused(settings: Settings, release: Release, s3: Any) -> None:
    other = "0" * 64
    s3.put_object(Bucket=BUCKET, Key=archive.key(other), Body=archive.pack_release(release))
    with pytest.raises(FleetError, match="is not release 000000000000"):
        archive.find_release(settings, other, s3)
    with pytest.raises(FleetError, match=r"neither at .* nor in S3"):
        archive.find_release(settings, "1" * 64, s3)


def test_the_same_release_packs_to_the_same_bytes(settings: Settings, release: Release) -> None:
    assert archive.pack_release(release) == archive.pack_release(archive.build(settings))


def test_an_archive_that_climbs_out_is_refused() -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz") as made:
        entry = tarfile.TarInfo("../../etc/passwd")
        made.addfile(entry, io.BytesIO(b""))
    with pytest.raises(FleetError, match=r"\.\./\.\./etc/passwd"):
        archive.unpack_release(plain.getvalue())


def test_a_diff_shows_what_changed(settings: Settings, release: Release) -> None:
    settings.fleet_file.write_text(settings.fleet_file.read_text() + "# a comment\n")
    shown = archive.unified_diff(release, archive.build(settings))
    assert shown.splitlines()[:2] == ["--- a/fleet.yaml", "+++ b/fleet.yaml"]
    assert "+# a comment" in shown


def test_where_a_release_comes_from_is_told_with_its_commit_where_git_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive.origin(REPOSITORY).startswith(f"{REPOSITORY} at ")
    assert archive.origin(tmp_path) == str(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert archive.origin(REPOSITORY) == str(REPOSITORY)

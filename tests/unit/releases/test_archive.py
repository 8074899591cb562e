"""Releases on disk and in S3: the same bytes, never overwritten, never taken for what they aren't."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
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
    return archive.build_release(settings)


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
    assert archive.build_release(settings) == release
    assert (release.directory / MANIFEST).stat().st_mtime_ns == before
    assert [found.digest for found in archive.releases_on_disk(settings)] == [release.digest]
    assert archive.digest_of(settings) == release.digest


def test_a_release_holds_the_fleet_file_in_force(settings: Settings, release: Release) -> None:
    assert release.fleet_file.read_text() == settings.fleet_file.read_text()
    assert release.fleet_file.read_text() != (REPOSITORY / "fleet.yaml").read_text()


def test_a_broken_fleet_file_makes_no_release(settings: Settings) -> None:
    settings.fleet_file.write_text("nodes: {")
    with pytest.raises(FleetError, match="not YAML"):
        archive.build_release(settings)
    assert archive.releases_on_disk(settings) == []


def test_a_build_that_was_killed_leaves_no_release(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(content, "format_manifest", lambda manifest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            archive.build_release(settings)
    assert archive.releases_on_disk(settings) == []
    archive.verify_release(archive.build_release(settings))


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
    s3.put_object(Bucket=BUCKET, Key=archive.archive_key(release.digest), Body=archive.pack_release(release))
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
    s3.put_object(Bucket=BUCKET, Key=archive.archive_key(other), Body=archive.pack_release(release))
    with pytest.raises(FleetError, match="is not release 000000000000"):
        archive.find_release(settings, other, s3)
    with pytest.raises(FleetError, match=r"neither at .* nor in S3"):
        archive.find_release(settings, "1" * 64, s3)


def test_the_same_release_packs_to_the_same_bytes(settings: Settings, release: Release) -> None:
    assert archive.pack_release(release) == archive.pack_release(archive.build_release(settings))


def test_an_archive_that_climbs_out_is_refused() -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz") as made:
        entry = tarfile.TarInfo("../../etc/passwd")
        made.addfile(entry, io.BytesIO(b""))
    with pytest.raises(FleetError, match=r"\.\./\.\./etc/passwd"):
        archive.unpack_release(plain.getvalue())


def packed(*entries: tarfile.TarInfo | str, body: bytes = b"") -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz", format=tarfile.GNU_FORMAT) as made:
        for entry in entries:
            info = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            info.size = len(body) if info.isreg() else 0
            made.addfile(info, io.BytesIO(body))
    return plain.getvalue()


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo("odd")
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(
    "entries",
    [
        ("/etc/passwd",),
        ("a/../../etc/passwd",),
        ("./a",),
        ("a//b",),
        ("a", "a"),
        ("a", special(tarfile.SYMTYPE, "a")),
        ("a", special(tarfile.LNKTYPE, "a")),
        (special(tarfile.CHRTYPE),),
        (special(tarfile.BLKTYPE),),
        (special(tarfile.FIFOTYPE),),
        (special(tarfile.DIRTYPE),),
    ],
)
def test_only_plain_files_below_the_root_are_unpacked(entries: tuple[tarfile.TarInfo | str, ...]) -> None:
    assert archive.unpack_release(packed("a/b")) == {"a/b": b""}
    with pytest.raises(FleetError, match="not a plain file"):
        archive.unpack_release(packed(*entries))


def test_a_sparse_file_is_refused_before_it_is_read() -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz", format=tarfile.PAX_FORMAT) as made:
        entry = tarfile.TarInfo("odd")
        entry.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 50)}
        made.addfile(entry, io.BytesIO(b""))
    with pytest.raises(FleetError, match="not a plain file"):
        archive.unpack_release(plain.getvalue())


def test_an_archive_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    assert len(archive.unpack_release(packed("a", "b", "c"))) == 3
    with pytest.raises(FleetError, match="more than 3 files"):
        archive.unpack_release(packed("a", "b", "c", "d"))
    monkeypatch.setattr(archive, "MAX_PLAIN", 1 << 20)
    tracemalloc.start()
    with pytest.raises(FleetError, match="1 MiB when it is unpacked"):
        archive.unpack_release(gzip.compress(bytes(1 << 26)))
    assert tracemalloc.get_traced_memory()[1] < 1 << 27  # the 64 MiB of this test, and little more
    tracemalloc.stop()
    monkeypatch.setattr(archive, "MAX_PACKED", 1 << 10)
    with pytest.raises(FleetError, match="more than 0 MiB"):
        archive.unpack_release(gzip.compress(os.urandom(1 << 11)))


@pytest.mark.parametrize("how", ["cut", "more", "no gzip"])
def test_an_archive_that_is_damaged_is_refused(release: Release, how: str) -> None:
    body = archive.pack_release(release)
    odd = {"cut": body[:-100], "more": body + b"x", "no gzip": b"x" + body}[how]
    with pytest.raises(FleetError, match="can't be read"):
        archive.unpack_release(odd)


def test_what_s3_holds_is_not_read_without_end(
    settings: Settings, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_PACKED", 1 << 10)
    s3.put_object(Bucket=BUCKET, Key=archive.archive_key("0" * 64), Body=os.urandom(1 << 20))
    unpacked: list[int] = []

    def unpack(body: bytes) -> dict[str, bytes]:
        unpacked.append(len(body))
        return {}

    monkeypatch.setattr(archive, "unpack_release", unpack)
    with pytest.raises(FleetError):
        archive.find_release(settings, "0" * 64, s3)
    assert unpacked == [(1 << 10) + 1]


def test_a_diff_shows_what_changed(settings: Settings, release: Release) -> None:
    settings.fleet_file.write_text(settings.fleet_file.read_text() + "# a comment\n")
    shown = archive.unified_diff(release, archive.build_release(settings))
    assert shown.splitlines()[:2] == ["--- a/fleet.yaml", "+++ b/fleet.yaml"]
    assert "+# a comment" in shown


def test_where_a_release_comes_from_is_told_with_its_commit_where_git_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive.describe_source(REPOSITORY).startswith(f"{REPOSITORY} at ")
    assert archive.describe_source(tmp_path) == str(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert archive.describe_source(REPOSITORY) == str(REPOSITORY)

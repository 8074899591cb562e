"""Which backups count, which are deleted, and what an archive may hold. On real servers: tests/integration."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kintsugi.core.encryption import BackupRefused
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.installation.backup import backups_kept, keys_to_delete
from kintsugi.installation.backup_content import About, read_content
from kintsugi.installation.backup_manifest import (
    MANIFEST,
    OBJECT,
    BackupManifest,
    manifest_key,
    object_key,
    parse_manifest,
    time_of,
)
from kintsugi.installation.backup_place import DirectoryPlace
from kintsugi.installation.restore import choose_backup

OLDER, OLD, NEW = "20261127T030000.000Z", "20261128T030000.000Z", "20261129T030000.000Z"
MADE = BackupManifest(
    id=OLD, fleet="kintsugi", environment="local", release="a" * 64, key="0" * 16, size=5, sha256="b" * 64,
    dumps={"airflow": 3, "kintsugi": 4},
)  # fmt: skip


def place(directory: Path, backups: Mapping[str, bytes], incomplete: Mapping[str, bytes]) -> DirectoryPlace:
    """A place with complete backups, and with others that have no manifest."""
    for name, body in {**backups, **incomplete}.items():
        path = directory / object_key(name)
        path.parent.mkdir(parents=True)
        path.write_bytes(body)
        if name in backups:
            (directory / manifest_key(name)).write_text(replace(MADE, id=name).to_json())
    return DirectoryPlace(directory)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert parse_manifest(OLD, MADE.to_json().encode()) == MADE
    assert json.loads(MADE.to_json())["made_at"] == "2026-11-28T03:00:00+00:00"
    assert time_of(OLD) == MADE.made_at


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", json.dumps(asdict(replace(MADE, format=2))), json.dumps(asdict(replace(MADE, id=NEW))),
     json.dumps(asdict(replace(MADE, sha256="short"))), json.dumps(asdict(MADE) | {"more": 1})],
)  # fmt: skip
def test_another_manifest_is_refused(text: str) -> None:
    with pytest.raises(BackupRefused):
        parse_manifest(OLD, text.encode())


def test_the_newest_complete_backup_is_taken(tmp_path: Path) -> None:
    source = place(tmp_path, {OLDER: b"12345", OLD: b"12345"}, {NEW: b"12345"})
    assert choose_backup(source).id == OLD
    assert choose_backup(source, OLDER).id == OLDER


def test_a_backup_without_a_manifest_or_without_its_end_does_not_count(tmp_path: Path) -> None:
    source = place(tmp_path, {OLDER: b"12345", OLD: b"123"}, {NEW: b"12345"})
    assert choose_backup(source).id == OLDER
    for name, reason in ((NEW, "never completed"), (OLD, "3 of 5 bytes"), ("../../etc", "no backup")):
        with pytest.raises(BackupRefused, match=reason):
            choose_backup(source, name)


def test_no_backup_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="there is none"):
        choose_backup(DirectoryPlace(tmp_path))
    with pytest.raises(StepFailed, match="can't be used"):
        DirectoryPlace(tmp_path).read(manifest_key(OLD))


def sizes(*complete: str, half: tuple[str, ...] = ()) -> dict[str, int]:
    keys = [key for name in complete for key in (object_key(name), manifest_key(name))]
    return dict.fromkeys([*keys, *map(object_key, half), "backups/README", "backups/notes/mine"], 1)


def test_the_newest_are_kept_and_a_manifest_is_deleted_before_its_object() -> None:
    assert keys_to_delete(sizes(OLDER, OLD), NEW, 3) == []
    assert keys_to_delete(sizes(OLDER, OLD), NEW, 2) == [manifest_key(OLDER), object_key(OLDER)]
    assert {key.rpartition("/")[2] for key in keys_to_delete(sizes(OLDER, OLD), NEW, 1)} == {MANIFEST, OBJECT}
    assert len(keys_to_delete(sizes(OLDER, OLD), NEW, 1)) == 4


def test_half_a_backup_is_deleted_after_a_day_and_never_takes_the_place_of_a_whole_one() -> None:
    assert keys_to_delete(sizes(half=(OLDER, OLD)), NEW, 1) == [object_key(OLDER)]
    assert keys_to_delete(sizes(OLDER, half=(OLD,)), NEW, 2) == []


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "²"])
def test_a_wrong_number_of_backups_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KINTSUGI_BACKUPS_KEPT", text)
    with pytest.raises(KintsugiError, match="KINTSUGI_BACKUPS_KEPT"):
        backups_kept()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for info, body in members:
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    target.seek(0)
    return target


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.mode = 0o640
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("/etc/passwd"),
        member("state/secrets/link", tarfile.SYMTYPE, "/etc/shadow"),
        member("state/secrets/hard", tarfile.LNKTYPE, "about.json"),
        member("state/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_an_archive_writes_nothing_but_files_below_its_directory(
    tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    target = tmp_path / "content"
    target.mkdir()
    with pytest.raises(BackupRefused, match="no backup has"):
        read_content(archive((bad, b"")), target)
    assert list(tmp_path.iterdir()) == [target]


def test_an_archive_is_unpacked_with_its_modes(tmp_path: Path) -> None:
    about = About("b", "/s", "u", "local", "kintsugi", "host")
    text = json.dumps(asdict(about)).encode()
    assert (
        read_content(archive((member("about.json"), text), (member("databases/a.dump"), b"1")), tmp_path)
        == about
    )
    assert (tmp_path / "databases" / "a.dump").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("body", [b"", b"no archive" * 100])
def test_what_is_no_archive_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(BackupRefused, match="can't be read"):
        read_content(io.BytesIO(body), tmp_path)

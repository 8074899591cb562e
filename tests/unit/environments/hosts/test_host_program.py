from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from kintsugi.core.settings import Settings
from kintsugi.environments.hosts import host_program
from kintsugi.environments.node_files import NodeFileRefused

NAME = "kafka-1"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("KINTSUGI_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    return Settings(tmp_path / "state", tmp_path / "cache", tmp_path / "fleet.yaml")


def bundle(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        directory = tarfile.TarInfo("./etc")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o750
        archive.addfile(directory)
        for name, text in files.items():
            member = tarfile.TarInfo(f"./etc/{name}")
            member.size, member.mode = len(text), 0o600
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def test_a_bundle_becomes_the_files_of_the_root_with_their_modes(settings: Settings) -> None:
    host_program.unpack_bundle(settings, NAME, bundle(host_key="secret"))
    path = settings.node_root(NAME) / "etc/host_key"
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("secret", 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o750


def test_a_bundle_is_not_written_through_a_link_that_a_former_node_left(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "of-the-host").mkdir()
    settings.node_root(NAME).mkdir(parents=True)
    (settings.node_root(NAME) / "etc").symlink_to(tmp_path / "of-the-host")
    with pytest.raises(NodeFileRefused):
        host_program.unpack_bundle(settings, NAME, bundle(host_key="secret"))
    assert list((tmp_path / "of-the-host").iterdir()) == []


def test_an_action_prints_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert host_program.main(["create-volume", NAME]) == 0
    assert host_program.main(["volume-exists", NAME]) == 0
    assert host_program.main(["volume-formatted", NAME, "--mark", "meta.properties"]) == 0
    assert host_program.main(["incarnation", NAME]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [None, True, False, None]


def test_a_destroyed_volume_goes_to_the_quarantine_of_the_host(settings: Settings) -> None:
    host_program.main(["create-volume", NAME])
    (settings.node_volume(NAME) / "data/rows").write_text("kept")
    assert host_program.main(["destroy-volume", NAME]) == 0
    assert not settings.node_volume(NAME).exists()
    assert [path.read_text() for path in settings.quarantine.glob(f"{NAME}.*/volume/data/rows")] == ["kept"]
    host_program.main(["discard", NAME])
    assert list(settings.quarantine.iterdir()) == []


def test_another_incarnation_is_not_ended_and_has_a_code_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(host_program, "read_incarnation", lambda *_: "b:8@2")
    monkeypatch.setattr("kintsugi.environments.local.node.power_off", lambda _, name: killed.append(name))
    assert host_program.main(["power-off", NAME, "--expected=b:7@1"]) == host_program.ANOTHER_RUNS
    assert host_program.main(["power-off", NAME, "--expected="]) == host_program.ANOTHER_RUNS
    assert killed == []
    assert "b:8@2" in capsys.readouterr().err
    assert host_program.main(["power-off", NAME, "--expected=b:8@2"]) == 0
    assert killed == [NAME]


def test_all_that_a_host_kept_is_removed(settings: Settings) -> None:
    host_program.main(["create-volume", NAME])
    host_program.main(["destroy-volume", NAME])
    host_program.main(["create-volume", NAME])
    assert host_program.main(["remove-all", "-"]) == 0
    assert list(settings.state.iterdir()) == []


def test_the_digest_of_the_code_changes_with_the_code(tmp_path: Path) -> None:
    package = tmp_path / "plugins/kintsugi"
    package.mkdir(parents=True)
    (package / "one.py").write_text("1")
    before = host_program.code_digest(tmp_path)
    (package / "one.py").write_text("2")
    assert host_program.code_digest(tmp_path) != before

from __future__ import annotations

import os
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from kintsugi.core.errors import PreflightError
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import Settings, inherited, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", cache=tmp_path / "cache", fleet_file=REPOSITORY / "fleet.yaml")


def test_all_that_make_down_removes_lies_under_the_state(settings: Settings) -> None:
    paths = [
        settings.node_root("kafka-1"),
        settings.node_volume("kafka-1"),
        settings.quarantine,
        settings.secrets,
        settings.control,
    ]
    assert all(path.is_relative_to(settings.state) for path in paths)
    assert len(set(paths)) == len(paths)
    assert not settings.artifacts.is_relative_to(settings.state)


def test_a_secret_is_made_once_and_only_its_owner_reads_it(settings: Settings) -> None:
    first = settings.secret("postgres")
    assert len(bytes.fromhex(first)) == 32
    assert settings.secret("postgres") == first
    assert settings.secret("airflow") != first
    assert stat.S_IMODE((settings.secrets / "postgres").stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.secrets.stat().st_mode) == 0o700


def test_two_first_users_get_the_same_secret(settings: Settings) -> None:
    with ProcessPoolExecutor(2) as pool:
        first, second = pool.map(settings.secret, ["postgres"] * 2)
    assert first == second == settings.secret("postgres")
    assert [path.name for path in settings.secrets.iterdir()] == ["postgres"]


def test_the_environment_moves_state_cache_and_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINTSUGI_STATE", str(tmp_path / "s"))
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("KINTSUGI_FLEET", str(tmp_path / "f.yaml"))
    loaded = load_settings()
    assert (loaded.state, loaded.cache) == (tmp_path / "s", tmp_path / "c")
    assert loaded.fleet_file == tmp_path / "f.yaml"


@pytest.mark.parametrize(
    ("user", "state"), [(0, "/var/lib/kintsugi"), (1000, "/home/ada/.local/state/kintsugi")]
)
def test_the_default_place_depends_on_who_runs_it(
    monkeypatch: pytest.MonkeyPatch, user: int, state: str
) -> None:
    for name in ("KINTSUGI_STATE", "KINTSUGI_CACHE", "KINTSUGI_FLEET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setenv("HOME", "/home/ada")
    assert load_settings().state == Path(state)


def test_the_fleet_is_read_from_the_file_in_force(settings: Settings) -> None:
    assert settings.fleet.name == "kintsugi"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("https_proxy", "http://proxy\nPermitRootLogin yes"),
        ("https_proxy", "http://proxy\r\nForceCommand x"),
        ("https_proxy", 'http://proxy" LD_PRELOAD="/tmp/x.so'),
        ("https_proxy", "http://proxy\\"),
        ("https_proxy", "http://proxy\u2028x"),
        ('x" LD_PRELOAD="/tmp/x.so', "1"),
        ("two words", "1"),
    ],
)
def test_a_variable_that_would_become_a_line_of_a_configuration_is_refused(name: str, value: str) -> None:
    with pytest.raises(PreflightError, match="KINTSUGI_INHERIT"):
        inherited({"KINTSUGI_INHERIT": name, name: value})
    assert inherited({"KINTSUGI_INHERIT": "a,no_proxy", "no_proxy": "localhost,::1,.x.org"}) == {
        "no_proxy": "localhost,::1,.x.org"
    }


@pytest.mark.parametrize("name", ["KINTSUGI_STATE", "KINTSUGI_CACHE", "KINTSUGI_FLEET"])
@pytest.mark.parametrize(
    "path", ["/srv/x\n[program:x]\ncommand=id", '/srv/x"', "/srv/%(ENV_HOME)s", "/srv/$(id)"]
)
def test_a_path_that_would_become_more_than_a_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    monkeypatch.setenv(name, path)
    with pytest.raises(PreflightError, match=name):
        load_settings()


def test_a_state_directory_of_ours_is_taken_and_made_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_STATE", str(tmp_path / "state"))
    before = os.umask(0)
    try:
        load_settings().secret("postgres")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o755
    load_settings()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_state_directory_that_others_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    tmp_path.chmod(mode)
    monkeypatch.setenv("KINTSUGI_STATE", str(tmp_path))
    with pytest.raises(PreflightError, match="chmod go-w") as refusal:
        load_settings()
    assert "\n" not in str(refusal.value)


def test_a_state_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "state"
    theirs.mkdir()
    if os.geteuid() == 0:
        os.chown(theirs, 12345, 12345)
    else:
        theirs = Path("/usr")
    monkeypatch.setenv("KINTSUGI_STATE", str(theirs))
    with pytest.raises(PreflightError, match="belongs to another user"):
        load_settings()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives links away")
def test_a_link_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "state"
    link.symlink_to(tmp_path)
    monkeypatch.setenv("KINTSUGI_STATE", str(link))
    load_settings()
    os.lchown(link, 12345, 12345)
    with pytest.raises(PreflightError, match="belongs to another user"):
        load_settings()


def test_a_state_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").touch()
    monkeypatch.setenv("KINTSUGI_STATE", str(tmp_path / "state"))
    with pytest.raises(PreflightError, match="not a directory"):
        load_settings()

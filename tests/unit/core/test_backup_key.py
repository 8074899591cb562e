"""The key file of the backups: made once, private, and outside of what a backup saves."""

from __future__ import annotations

from pathlib import Path

import pytest

from kintsugi.core.backup_key import ensure_key, key_path, load_key
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=tmp_path / "state", cache=tmp_path / "cache", fleet_file=tmp_path / "fleet.yaml")


def test_the_first_use_makes_it_private_and_later_ones_read_it(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "backup.key"
    key, made = ensure_key(settings, path)
    assert made
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert ensure_key(settings, path) == (key, False)


def test_it_can_not_lie_where_it_would_be_lost_with_the_installation(settings: Settings) -> None:
    settings.state.mkdir()
    with pytest.raises(KintsugiError, match="state directory"):
        ensure_key(settings, settings.state / "backup.key")
    assert not list(settings.state.iterdir())


@pytest.mark.parametrize("text", ["", "00", "no key", "0" * 66, "\udcff", "g" * 64])
def test_a_file_that_is_no_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "backup.key"
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(KintsugiError, match="is not a key"):
        load_key(path)


def test_a_key_that_others_may_read_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "backup.key"
    with pytest.raises(KintsugiError, match="put your copy"):
        load_key(path)
    path.write_text("0" * 64)
    path.chmod(0o640)
    with pytest.raises(KintsugiError, match="chmod 600"):
        load_key(path)


def test_the_user_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KINTSUGI_BACKUP_KEY", str(tmp_path / "mine"))
    assert key_path() == tmp_path / "mine"
    monkeypatch.delenv("KINTSUGI_BACKUP_KEY")
    assert key_path().name == "backup.key"

"""What a start says about signing in: enough, and no password where it would be kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kintsugi import cli
from kintsugi.controlplane import accounts
from kintsugi.core.settings import Settings, load_settings
from kintsugi.installation.sign_in import sign_in_text

TWO = {"KINTSUGI_USERS": "ana:admin,ben:operator"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("KINTSUGI_STATE", str(tmp_path / "state"))
    for name in ("KINTSUGI_USERS", "AIRFLOW__CORE__AUTH_MANAGER"):
        monkeypatch.delenv(name, raising=False)
    return load_settings()


def test_password_is_not_printed_where_it_would_be_kept(settings: Settings) -> None:
    accounts.apply_accounts(settings, {"KINTSUGI_USERS": "ana:admin"})
    text = sign_in_text(settings)  # pytest's stdout is no terminal
    path = accounts.password_file(settings, "ana")
    assert path.read_text() not in text
    assert f"user: ana   password: in {path}" in text


def test_a_terminal_shows_the_password_of_a_single_user_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    accounts.apply_accounts(settings, {"KINTSUGI_USERS": "ana:admin"})
    password = accounts.password_file(settings, "ana").read_text()
    assert password in sign_in_text(settings)
    accounts.apply_accounts(settings, TWO)
    text = sign_in_text(settings)
    assert password not in text
    assert "ana (admin), ben (operator)" in text


def test_another_auth_manager_has_its_own_sign_in(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "airflow.providers.fab.FabAuthManager")
    assert "password" not in sign_in_text(settings)
    assert not settings.state.exists()


def test_the_command_says_where_a_password_is_and_makes_another(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts.apply_accounts(settings, TWO)
    path = accounts.password_file(settings, "ben")
    old = path.read_text()
    assert cli.main(["user-password", "ben"]) == 0
    assert capsys.readouterr().out == f"user: ben   password: in {path}\n"
    assert path.read_text() == old
    assert cli.main(["user-password", "ben", "--new"]) == 0
    assert path.read_text() != old
    out = capsys.readouterr().out
    assert old not in out
    assert path.read_text() not in out
    assert cli.main(["user-password", "eve"]) == 1
    assert "ana, ben" in capsys.readouterr().err

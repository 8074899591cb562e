"""The accounts of Airflow: who may sign in, with which password, and what is left when a user is gone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kintsugi.controlplane import accounts
from kintsugi.core.errors import InputError, PreflightError
from kintsugi.core.settings import Settings
from kintsugi.core.users import UserRole
from tests.installations import installation

TWO = {"KINTSUGI_USERS": "ana:admin,ben:operator"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    for name in ("KINTSUGI_USERS", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    return installation(tmp_path, "127.34")


def passwords(settings: Settings) -> dict[str, str]:
    found: dict[str, str] = json.loads(accounts.passwords_file(settings).read_text())
    return found


def test_each_user_has_a_password_of_his_own_that_only_the_owner_reads(settings: Settings) -> None:
    assert accounts.apply_accounts(settings, TWO)
    found = passwords(settings)
    assert list(found) == ["ana", "ben"]
    assert found["ana"] != found["ben"]
    assert min(map(len, found.values())) >= 32
    files = [*accounts.passwords_file(settings).parent.iterdir(), *settings.secrets.iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert accounts.password_file(settings, "ben").read_text() == found["ben"]


def test_a_repetition_changes_nothing(settings: Settings) -> None:
    accounts.apply_accounts(settings, TWO)
    before = passwords(settings)
    assert not accounts.apply_accounts(settings, TWO)
    assert passwords(settings) == before


def test_a_start_without_the_setting_keeps_the_users(settings: Settings) -> None:
    accounts.apply_accounts(settings, TWO)
    before = passwords(settings)
    assert not accounts.apply_accounts(settings, {"SUDO_USER": "carl", "KINTSUGI_USERS": ""})
    assert passwords(settings) == before
    assert accounts.recorded_accounts(settings) == {"ana": UserRole.ADMIN, "ben": UserRole.OPERATOR}


def test_the_password_of_a_user_who_is_gone_is_deleted_and_a_return_gets_another(settings: Settings) -> None:
    accounts.apply_accounts(settings, TWO)
    old = passwords(settings)["ben"]
    assert accounts.apply_accounts(settings, {"KINTSUGI_USERS": "ana:admin"})
    assert list(passwords(settings)) == ["ana"]
    assert not [path for path in settings.secrets.iterdir() if path.read_text() == old]
    accounts.apply_accounts(settings, TWO)
    assert passwords(settings)["ben"] != old


def test_a_role_that_changes_is_a_change_and_keeps_the_password(settings: Settings) -> None:
    accounts.apply_accounts(settings, TWO)
    before = passwords(settings)
    assert accounts.apply_accounts(settings, {"KINTSUGI_USERS": "ana:admin,ben:viewer"})
    assert passwords(settings) == before


def test_a_first_start_makes_one_admin_named_after_who_runs_it_and_keeps_him(settings: Settings) -> None:
    accounts.apply_accounts(settings, {"SUDO_USER": "ana"})
    assert accounts.recorded_accounts(settings) == {"ana": UserRole.ADMIN}
    accounts.apply_accounts(settings, {"SUDO_USER": "ben"})
    assert list(passwords(settings)) == ["ana"]


def test_the_admin_of_an_older_installation_stays_until_the_setting_names_others(settings: Settings) -> None:
    old = settings.secret("airflow-admin")
    accounts.apply_accounts(settings, {"SUDO_USER": "ana"})
    assert passwords(settings) == {"admin": old}
    accounts.apply_accounts(settings, TWO)
    assert list(passwords(settings)) == ["ana", "ben"]
    assert not (settings.secrets / "airflow-admin").exists()


def test_a_wrong_setting_changes_nothing(settings: Settings) -> None:
    accounts.apply_accounts(settings, TWO)
    before = passwords(settings)
    with pytest.raises(PreflightError):
        accounts.apply_accounts(settings, {"KINTSUGI_USERS": "ben:viewer"})
    assert passwords(settings) == before


def test_a_new_password_is_in_the_file_that_airflow_reads_and_the_others_stay(settings: Settings) -> None:
    accounts.apply_accounts(settings, TWO)
    before = passwords(settings)
    accounts.renew_password(settings, "ben")
    after = passwords(settings)
    assert after["ben"] != before["ben"]
    assert after["ana"] == before["ana"]
    with pytest.raises(InputError, match="ana, ben"):
        accounts.renew_password(settings, "airflow-jwt")


def test_airflow_gets_a_role_of_its_own_for_each_of_ours() -> None:
    users = {"ana": UserRole.ADMIN, "ben": UserRole.OPERATOR, "eve": UserRole.VIEWER}
    assert accounts.airflow_users(users) == "ana:admin,ben:user,eve:viewer"

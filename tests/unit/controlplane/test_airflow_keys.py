"""Airflow's keys: what was encrypted can be read until the old Fernet key is dropped, and then no longer with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from kintsugi.controlplane.airflow_keys import (
    JWT_SECRET,
    add_fernet_key,
    drop_old_fernet_key,
    key_environment,
    replace_token_keys,
)
from kintsugi.core.settings import PAGE_FORMS_SECRET, Settings
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.34")


def airflows_fernet(settings: Settings) -> MultiFernet:
    """As `airflow.models.crypto` makes it of its setting."""
    keys = key_environment(settings)["AIRFLOW__CORE__FERNET_KEY"].split(",")
    return MultiFernet([Fernet(key.encode()) for key in keys])


def test_both_keys_read_and_the_new_one_writes(settings: Settings) -> None:
    before = airflows_fernet(settings)
    stored = before.encrypt(b"a password")
    add_fernet_key(settings)
    both = airflows_fernet(settings)
    assert both.decrypt(stored) == b"a password"
    with pytest.raises(InvalidToken):
        before.decrypt(both.encrypt(b"a password"))
    stored = both.rotate(stored)
    drop_old_fernet_key(settings)
    assert airflows_fernet(settings).decrypt(stored) == b"a password"
    with pytest.raises(InvalidToken):
        before.decrypt(stored)


def test_a_repetition_adds_no_third_key_and_drops_no_other(settings: Settings) -> None:
    key_environment(settings)
    add_fernet_key(settings)
    stored = airflows_fernet(settings).encrypt(b"a password")
    add_fernet_key(settings)
    assert len(airflows_fernet(settings)._fernets) == 2
    for _ in range(2):
        drop_old_fernet_key(settings)
        assert airflows_fernet(settings).decrypt(stored) == b"a password"


def test_the_keys_are_private_files(settings: Settings) -> None:
    key_environment(settings)
    add_fernet_key(settings)
    replace_token_keys(settings)
    assert {path.stat().st_mode & 0o777 for path in settings.secrets.iterdir()} == {0o600}


@pytest.mark.parametrize("jwt", [True, False])
def test_the_key_of_tokens_is_replaced_unless_others_sign_them(settings: Settings, *, jwt: bool) -> None:
    before = {name: settings.secret(name) for name in (JWT_SECRET, PAGE_FORMS_SECRET)}
    replace_token_keys(settings, jwt=jwt)
    assert (settings.secret(JWT_SECRET) != before[JWT_SECRET]) is jwt
    assert settings.secret(PAGE_FORMS_SECRET) != before[PAGE_FORMS_SECRET]

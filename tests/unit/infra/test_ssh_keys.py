"""The user key of SSH is accepted by nodes before it is used, and as long as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kintsugi.core.settings import Settings
from kintsugi.infra.ssh import (
    accepts_next_key,
    authorized_keys,
    ensure_keys,
    key_directory,
    promote_next_key,
    publish_next_key,
)
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.31")


def public_half(key: Path) -> str:
    """What ssh proves with ``key``, whatever the file beside it says."""
    return subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout


def accepts(keys: str, public: str) -> bool:
    return " ".join(public.split()[:2]) in keys


def test_a_key_is_accepted_before_it_is_used_and_by_nodes_that_are_not_updated_yet(
    settings: Settings,
) -> None:
    user = key_directory(settings) / "user"
    on_nodes = authorized_keys(settings)
    for _ in range(3):
        publish_next_key(settings)
        for keys in (on_nodes, authorized_keys(settings)):
            assert accepts(keys, public_half(user))
        on_nodes = authorized_keys(settings)
        used = public_half(user)
        assert promote_next_key(settings)
        assert public_half(user) != used
        assert accepts(on_nodes, public_half(user))
        assert user.with_name("user.pub").read_text() == public_half(user)


def test_the_second_rotation_ends_a_key(settings: Settings) -> None:
    ensure_keys(settings)
    stolen = public_half(key_directory(settings) / "user")
    accepted = []
    for _ in range(2):
        publish_next_key(settings)
        accepted.append(accepts(authorized_keys(settings), stolen))
        promote_next_key(settings)
    assert accepted == [True, False]


def test_a_repetition_publishes_no_other_key_and_uses_none_that_no_node_knows(settings: Settings) -> None:
    publish_next_key(settings)
    keys = authorized_keys(settings)
    publish_next_key(settings)
    assert authorized_keys(settings) == keys
    assert promote_next_key(settings)
    assert not promote_next_key(settings)
    assert authorized_keys(settings) == keys


def test_a_kill_between_the_two_halves_of_a_key_is_repaired(settings: Settings) -> None:
    publish_next_key(settings)
    directory = key_directory(settings)
    (directory / "user-next").replace(directory / "user")
    ensure_keys(settings)
    assert (directory / "user.pub").read_text() == public_half(directory / "user")
    assert not (directory / "user-next.pub").exists()


def test_a_node_that_is_silent_accepts_no_key(settings: Settings) -> None:
    publish_next_key(settings)
    assert not accepts_next_key(settings, settings.fleet.node("kafka-1"))

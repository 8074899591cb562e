"""The user key of SSH is accepted by nodes before it is used, and as long as it is, and so is the host authority."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kintsugi.core.settings import Settings
from kintsugi.infra.ssh import (
    accepts_next_key,
    authorized_keys,
    drop_old_host_authority,
    ensure_keys,
    key_directory,
    promote_next_host_authority,
    promote_next_key,
    publish_next_host_authority,
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


def trusted(settings: Settings) -> str:
    return (key_directory(settings) / "known_hosts").read_text()


def test_an_authority_is_trusted_before_it_signs_and_until_the_caller_drops_it(settings: Settings) -> None:
    authority = ensure_keys(settings) / "host_ca"
    for _ in range(2):
        old = public_half(authority)
        publish_next_host_authority(settings)
        assert public_half(authority) == old
        assert not drop_old_host_authority(settings), "it signs, and nobody has a certificate of the next one"
        assert promote_next_host_authority(settings)
        assert public_half(authority) != old
        assert authority.with_name("host_ca.pub").read_text() == public_half(authority)
        ensure_keys(settings)
        for one in (old, public_half(authority)):
            assert accepts(trusted(settings), one)
        assert drop_old_host_authority(settings)
        assert not accepts(trusted(settings), old)
        assert accepts(trusted(settings), public_half(authority))


def test_no_authority_is_made_while_the_old_one_is_still_trusted(settings: Settings) -> None:
    publish_next_host_authority(settings)
    promote_next_host_authority(settings)
    before = trusted(settings)
    publish_next_host_authority(settings)
    assert trusted(settings) == before
    assert not promote_next_host_authority(settings)
    assert drop_old_host_authority(settings)
    assert not drop_old_host_authority(settings)


@pytest.mark.parametrize("killed_at", ["made", "trusted", "renamed"])
def test_a_rotation_of_the_authority_can_be_killed_and_repeated(settings: Settings, killed_at: str) -> None:
    directory = ensure_keys(settings)
    before, known = public_half(directory / "host_ca"), trusted(settings)
    publish_next_host_authority(settings)
    following = public_half(directory / "host_ca-next")
    if killed_at == "made":
        (directory / "known_hosts").write_text(known)
    if killed_at == "renamed":
        (directory / "host_ca-next").replace(directory / "host_ca")
    publish_next_host_authority(settings)
    promote_next_host_authority(settings)
    assert public_half(directory / "host_ca") == following
    assert (directory / "host_ca.pub").read_text() == following
    assert accepts(trusted(settings), before)
    assert accepts(trusted(settings), following)
    assert trusted(settings).count("@cert-authority") == 2

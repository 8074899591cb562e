"""The end of a rotation: what is not in use everywhere stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from kintsugi.core.settings import Settings
from kintsugi.infra.ssh import (
    key_directory,
    promote_next_host_authority,
    promote_next_key,
    publish_next_host_authority,
    publish_next_key,
)
from kintsugi.releases import secret_rotation
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation of which no node runs."""
    return installation(tmp_path, "127.31")


def test_the_key_of_ssh_stays_while_a_node_does_not_accept_the_next_one(settings: Settings) -> None:
    """A release from before these keys doesn't give it to its nodes: with another key nobody could log in."""
    publish_next_key(settings)
    used = (key_directory(settings) / "user").read_text()
    told = secret_rotation._replace_ssh_key(settings)
    assert all(node.name in told for node in settings.fleet)
    assert (key_directory(settings) / "user").read_text() == used


def test_a_repetition_says_that_the_key_was_replaced(settings: Settings) -> None:
    publish_next_key(settings)
    assert promote_next_key(settings)
    assert "replaced before" in secret_rotation._replace_ssh_key(settings)


def test_the_old_authority_stays_trusted_while_a_node_shows_no_certificate_of_the_new_one(
    settings: Settings,
) -> None:
    publish_next_host_authority(settings)
    promote_next_host_authority(settings)
    trusted = (key_directory(settings) / "known_hosts").read_text()
    told = secret_rotation._replace_host_authority(settings)
    assert all(node.name in told for node in settings.fleet)
    assert (key_directory(settings) / "known_hosts").read_text() == trusted

"""What is kept of destroyed disks: bounded, but for what is held, which is bounded by time and room."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kintsugi.core.settings import Settings
from kintsugi.environments.local import node as nodes
from tests.installations import installation

NAME = "kafka-1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.34")


def lose(settings: Settings, what: str) -> None:
    nodes.create_volume(settings, NAME)
    (settings.node_volume(NAME) / "data" / what).write_text(what)
    nodes.destroy_volume(settings, NAME)


def kept(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.quarantine.glob("*/volume/data/*"))


def test_what_is_held_outlives_its_successors(settings: Settings) -> None:
    lose(settings, "last-copy")
    until = datetime.now(UTC) + timedelta(days=7)
    assert len(nodes.hold_quarantine(settings, NAME, until)) == 1
    for number in range(2 * nodes.QUARANTINE_KEEP + 2):
        lose(settings, f"later-{number}")
    assert "last-copy" in kept(settings)
    nodes.purge_quarantine(settings, NAME)
    assert kept(settings) == ["last-copy"]
    assert nodes.expire_quarantine(settings, until - timedelta(minutes=1)) == []
    assert len(nodes.expire_quarantine(settings, until)) == 1
    assert kept(settings) == []


def test_a_disk_short_of_room_takes_it_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(settings, "last-copy")
    lose(settings, "not-held")
    now = datetime.now(UTC)
    nodes.hold_quarantine(settings, NAME, now + timedelta(days=7))
    (nodes.quarantined_parts(settings, NAME)[0] / nodes.HELD).unlink()
    monkeypatch.setattr(nodes, "HELD_ROOM", 2**62)
    assert len(nodes.expire_quarantine(settings, now)) == 1
    assert kept(settings) == ["not-held"]


def test_nothing_is_held_of_a_node_that_left_nothing(settings: Settings) -> None:
    assert nodes.hold_quarantine(settings, NAME, datetime.now(UTC)) == []
    assert nodes.expire_quarantine(settings, datetime.now(UTC)) == []

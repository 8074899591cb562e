"""What is lost or damaged of a log, on files laid out as Cassandra and Kafka lay them out."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kintsugi.chaos.logs import (
    LOST_BYTES,
    damage_entry,
    damage_marker,
    damage_middle,
    last_section,
    lose_last_bytes,
    lose_unsynced_section,
)
from kintsugi.environments.node_files import NodeFile, NodeFileRefused

HEADER = struct.pack(">iqh", 7, 1795449357943, 2) + b"{}" + bytes(4)
SEGMENT_BYTES = 4096


def of(path: Path) -> NodeFile:
    return NodeFile(path.parent, path.name)


def segment(*sections: bytes) -> bytes:
    """A commit log segment with these sections, each behind its marker, and zeros to its allocated end."""
    content = HEADER
    for section in sections:
        end = len(content) + 8 + len(section)
        content += struct.pack(">iI", end, 0xFEED) + section
    return content.ljust(SEGMENT_BYTES, b"\0")


def test_the_last_section_begins_at_the_last_marker() -> None:
    assert last_section(segment(b"one", b"two")) == len(HEADER) + 8 + 3
    assert last_section(segment()) is None
    assert last_section(b"") is None


def test_only_what_the_open_segment_had_not_synced_is_lost(tmp_path: Path) -> None:
    full, written, ahead = (tmp_path / f"CommitLog-7-{number}.log" for number in (1, 2, 3))
    full.write_bytes(segment(b"a" * 100, b"b" * 100))
    written.write_bytes(segment(b"c" * 100, b"d" * 100))
    ahead.write_bytes(segment())
    before = full.read_bytes(), ahead.read_bytes()
    assert [lose_unsynced_section(of(path)) for path in (full, written, ahead)] == [False, True, False]
    assert written.read_bytes() == segment(b"c" * 100)
    assert (full.read_bytes(), ahead.read_bytes()) == before


def test_a_kafka_segment_loses_its_end(tmp_path: Path) -> None:
    log, short = tmp_path / "0.log", tmp_path / "1.log"
    log.write_bytes(b"x" * (LOST_BYTES + 10))
    short.write_bytes(b"x" * 10)
    assert lose_last_bytes(of(log))
    assert lose_last_bytes(of(short))
    assert (log.stat().st_size, short.stat().st_size) == (10, 0)
    assert not lose_last_bytes(of(short))


def changed(before: bytes, after: bytes) -> set[int]:
    """Where the bytes differ; noise may leave one as it was."""
    assert len(before) == len(after)
    return {at for at, (was, now) in enumerate(zip(before, after, strict=True)) if was != now}


def test_the_marker_of_the_last_section_is_damaged_and_nothing_else(tmp_path: Path) -> None:
    log, empty = tmp_path / "1.log", tmp_path / "2.log"
    log.write_bytes(before := segment(b"a" * 100, b"b" * 100))
    empty.write_bytes(segment())
    assert damage_marker(of(log))
    begins = last_section(before)
    assert begins is not None
    assert changed(before, log.read_bytes()) <= set(range(begins, begins + 8))
    assert log.read_bytes() != before
    assert not damage_marker(of(empty))
    assert empty.read_bytes() == segment()


def test_an_entry_is_damaged_where_the_service_writes_and_its_section_can_still_be_found(
    tmp_path: Path,
) -> None:
    full, written = tmp_path / "CommitLog-7-1.log", tmp_path / "CommitLog-7-2.log"
    full.write_bytes(before := segment(b"a" * 100))
    written.write_bytes(before)
    assert not damage_entry(of(full))
    assert damage_entry(of(written))
    begins = last_section(before)
    assert begins is not None
    assert changed(before, written.read_bytes()) <= set(range(begins + 8, begins + 108))
    assert written.read_bytes() != full.read_bytes() == before


def test_a_kafka_segment_is_damaged_in_its_middle(tmp_path: Path) -> None:
    log, short, empty = (tmp_path / f"{number}.log" for number in range(3))
    log.write_bytes(long := bytes(20_000))
    short.write_bytes(bytes(100))
    empty.write_bytes(b"")
    assert [damage_middle(of(path)) for path in (log, short, empty)] == [True, True, False]
    assert changed(long, log.read_bytes()) <= set(range(10_000, 14_096))
    assert changed(bytes(100), short.read_bytes()) <= set(range(50, 100))
    assert (log.read_bytes() != long, empty.read_bytes()) == (True, b"")


@pytest.mark.parametrize(
    "damage", [damage_entry, damage_marker, damage_middle, lose_last_bytes, lose_unsynced_section]
)
def test_no_damage_follows_a_link(tmp_path: Path, damage: Callable[[NodeFile], bool]) -> None:
    ours, node = tmp_path / "ours", tmp_path / "node"
    node.mkdir()
    ours.write_bytes(before := segment(b"a" * 100, b"b" * 100))
    (node / "CommitLog-7-1.log").symlink_to(ours)
    (node / "CommitLog-7-2.log").hardlink_to(ours)
    for name in ("CommitLog-7-1.log", "CommitLog-7-2.log"):
        with pytest.raises(NodeFileRefused):
            damage(NodeFile(node, name))
    assert ours.read_bytes() == before

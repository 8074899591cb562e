"""What is lost or damaged of a service's log, done to its files.

A power cut takes what its service had written and the disk hadn't yet. SIGKILL keeps the page cache, so losing it
needs doing. Only what could really be lost is taken: a log that was synced to its end survives a power cut, and a
service may rely on that.

What damage does to Cassandra depends on where it is: it ends itself where it can't read the marker of a section, and
goes on without the rest of the last section where it can't read an entry of it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

LOST_BYTES = 4096
NOISE_BYTES = 4096
_HEADER = struct.Struct(
    ">iqh"
)  # version, id, length of the parameters; they follow, and a checksum of four bytes
_MARKER = struct.Struct(">iI")  # where the section ends (and the next marker begins), checksum


def lose_last_bytes(log: Path) -> bool:
    """Cut the end off a Kafka segment, which is synced only when it is full; False when it is empty."""
    size = log.stat().st_size
    with log.open("r+b") as file:
        file.truncate(max(0, size - LOST_BYTES))
    return size > 0


def lose_unsynced_section(segment: Path) -> bool:
    """Take the last section of a Cassandra commit log back to the zeros it was allocated as.

    A section begins with a marker that is written just before the section is synced. A segment that was filled, so
    that Cassandra went on with the next, was synced before and keeps everything. Returns whether anything was taken.
    """
    with segment.open("r+b") as file:
        content = file.read()
        begins = last_section(content)
        if begins is None or not _may_be_written_to(segment):
            return False
        file.seek(begins)
        file.write(bytes(len(content) - begins))
    return True


def damage_middle(log: Path) -> bool:
    """Write noise into the middle of a Kafka segment; False when it is empty."""
    size = log.stat().st_size
    _write_noise(log, size // 2, min(NOISE_BYTES, size - size // 2))
    return size > 0


def damage_marker(segment: Path) -> bool:
    """Write noise over the marker of a Cassandra commit log's last section; False when it has none."""
    begins = last_section(segment.read_bytes())
    if begins is None:
        return False
    _write_noise(segment, begins, _MARKER.size)
    return True


def damage_entry(segment: Path) -> bool:
    """Write noise over the first entry of the section that Cassandra wrote last; False when this segment hasn't it."""
    content = segment.read_bytes()
    begins = last_section(content)
    if begins is None or not _may_be_written_to(segment):
        return False
    ends, _ = _MARKER.unpack_from(content, begins)
    first = begins + _MARKER.size
    _write_noise(segment, first, min(NOISE_BYTES, ends - first))
    return True


def _write_noise(log: Path, at: int, size: int) -> None:
    with log.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())


def last_section(content: bytes) -> int | None:
    """Where the last section of a commit log segment begins; None when it has none."""
    if len(content) < _HEADER.size:
        return None
    _, _, parameters = _HEADER.unpack_from(content)
    position, found = _HEADER.size + parameters + 4, None
    while position + _MARKER.size <= len(content):
        end, _ = _MARKER.unpack_from(content, position)
        if not position < end <= len(content):
            break
        position, found = end, position
    return found


def _may_be_written_to(segment: Path) -> bool:
    """Whether no later segment has a section: Cassandra allocates the next one ahead, empty."""
    later = (path for path in segment.parent.glob("CommitLog-*.log") if path.name > segment.name)
    return all(last_section(path.read_bytes()) is None for path in later)

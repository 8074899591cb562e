"""Lose or damage parts of a service's log files.

A power cut loses data that the service had written but the disk had not. SIGKILL keeps the page cache, so the loss
must be simulated. Only data that could really be lost is removed: a fully synced log survives a power cut, and a
service may rely on that.

The effect of damage on Cassandra depends on its place. If Cassandra can't read the marker of a section, it exits. If it
can't read an entry of the last section, it continues without the rest of that section.

The files are changed from outside the node. They are opened by `environments.node_files`, because a link in their place
must not lead the damage to a file of the control plane.
"""

from __future__ import annotations

import os
import struct
from fnmatch import fnmatch

from kintsugi.environments.node_files import NodeFile

COMMIT_LOG = "CommitLog-*.log"
SEGMENT_BYTES = 64 * 2**20  # of a commit log at most; Cassandra's are 32 MiB
LOST_BYTES = 4096
NOISE_BYTES = 4096
_HEADER = struct.Struct(
    ">iqh"
)  # version, id, length of the parameters; they follow, and a checksum of four bytes
_MARKER = struct.Struct(">iI")  # where the section ends (and the next marker begins), checksum


def lose_last_bytes(log: NodeFile) -> bool:
    """Cut off the end of a Kafka segment, which is synced only when it is full; False when it is empty."""
    size = log.size()
    with log.open_to_change() as file:
        file.truncate(max(0, size - LOST_BYTES))
    return size > 0


def lose_unsynced_section(segment: NodeFile) -> bool:
    """Overwrite the last section of a Cassandra commit log with the zeros of its allocation.

    A section begins with a marker that is written just before the section is synced. A full segment was synced before
    Cassandra began the next one, so it keeps everything. Returns whether anything was overwritten.
    """
    with segment.open_to_change() as file:
        content = file.read(SEGMENT_BYTES)
        begins = last_section(content)
        if begins is None or not _may_be_written_to(segment):
            return False
        file.seek(begins)
        file.write(bytes(len(content) - begins))
    return True


def damage_middle(log: NodeFile) -> bool:
    """Write noise into the middle of a Kafka segment; False when it is empty."""
    size = log.size()
    _write_noise(log, size // 2, min(NOISE_BYTES, size - size // 2))
    return size > 0


def damage_marker(segment: NodeFile) -> bool:
    """Write noise over the marker of a Cassandra commit log's last section; False when it has none."""
    begins = last_section(segment.read(SEGMENT_BYTES))
    if begins is None:
        return False
    _write_noise(segment, begins, _MARKER.size)
    return True


def damage_entry(segment: NodeFile) -> bool:
    """Write noise over the first entry of the last written section; False when it is not in this segment."""
    content = segment.read(SEGMENT_BYTES)
    begins = last_section(content)
    if begins is None or not _may_be_written_to(segment):
        return False
    ends, _ = _MARKER.unpack_from(content, begins)
    first = begins + _MARKER.size
    _write_noise(segment, first, min(NOISE_BYTES, ends - first))
    return True


def _write_noise(log: NodeFile, at: int, size: int) -> None:
    with log.open_to_change() as file:
        file.seek(at)
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())


def last_section(content: bytes) -> int | None:
    """The start of the last section of a commit log segment; None when it has none."""
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


def _may_be_written_to(segment: NodeFile) -> bool:
    """Whether no later segment has a section: Cassandra allocates the next one ahead, empty."""
    later = [log for log in segment.beside() if fnmatch(log.name, COMMIT_LOG) and log.name > segment.name]
    return all(last_section(log.read(SEGMENT_BYTES)) is None for log in later)

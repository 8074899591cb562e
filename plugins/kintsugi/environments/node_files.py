"""Access of the control plane to what a node can write: its root and its volume.

A node owns these directories, so a compromised node can put anything there: a symbolic link to a secret of the control
plane, a hard link, a FIFO that blocks its reader, a device, a file without end. Every read and every write by the
control plane goes through this module:

1. Each component of the path below the directory is opened by itself, relative to the one before, and never if it is a
   symbolic link. So no component can be exchanged for a link between a check and its use.
2. A file is opened without being used (``O_PATH``), checked (a regular file with one name), and only then opened for
   use, through its descriptor. So no FIFO blocks, and no device is opened.
3. A write makes a new file and renames it. So it never changes a file that was there.
4. A read has a bound.

What breaks a rule raises `NodeFileRefused`. ``top`` is a directory that the node can't replace: its root, its volume.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from kintsugi.core.errors import StepFailed

READ_BYTES = 64 * 1024
"""At most so much of a file is read where the caller names no other bound."""
MAX_ENTRIES = 100_000
"""So many entries of a node's directories are looked at in one search."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKED = (errno.ELOOP, errno.ENOTDIR)  # what open(2) says of a link, without and with O_DIRECTORY


class NodeFileRefused(StepFailed):
    """A path in a node's root or volume is not what it has to be, so it was neither read nor written."""


@dataclass(frozen=True, slots=True)
class NodeFile:
    """One file of a node, by its path ``relative`` below ``top``."""

    top: Path
    relative: str

    @property
    def name(self) -> str:
        return _split(self.relative)[1]

    def size(self) -> int:
        return file_size(self.top, self.relative)

    def read(self, limit: int) -> bytes:
        """Return its first ``limit`` bytes."""
        return read_from(self.top, self.relative, 0, limit)

    @contextmanager
    def open_to_change(self) -> Iterator[IO[bytes]]:
        """Open it for reading and writing in its place: for what damages a node on purpose."""
        with _opened(self.top, self.relative, os.O_RDWR) as handle, os.fdopen(os.dup(handle), "r+b") as file:
            yield file

    def beside(self) -> list[NodeFile]:
        """Return the files of its directory, itself included, by name."""
        return files_in(self.top, _split(self.relative)[0])


def files_in(top: Path, *folders: str) -> list[NodeFile]:
    """Return what lies in these directories, by directory and name. Each is checked when it is opened."""
    return [
        NodeFile(top, f"{folder}/{name}".lstrip("/")) for folder in folders for name in names_in(top, folder)
    ]


@contextmanager
def open_directory(top: Path, relative: str = "", *, make: bool = False) -> Iterator[int]:
    """Give a descriptor of the directory ``relative`` below ``top``; ``make``: what is missing is made.

    Raises NodeFileRefused if a component is no directory, FileNotFoundError if one is missing.
    """
    if make:
        top.mkdir(parents=True, exist_ok=True)
    current = _open(top, None, top)
    try:
        walked = top
        for part in _parts(relative):
            walked /= part
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
            below = _open(part, current, walked)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def make_directory(top: Path, relative: str = "", mode: int | None = None) -> None:
    """Make the directory and what is missing above it; ``mode``: its permissions from now on."""
    with open_directory(top, relative, make=True) as handle:
        if mode is not None:
            os.fchmod(handle, mode)


def read_tail(top: Path, relative: str, limit: int = READ_BYTES) -> bytes:
    """Return the last ``limit`` bytes of a file. Raises FileNotFoundError if there is none."""
    return read_from(top, relative, -limit, limit)


def read_from(top: Path, relative: str, offset: int, limit: int = READ_BYTES) -> bytes:
    """Return at most ``limit`` bytes of a file, beginning at ``offset`` (negative: counted from the end)."""
    with _opened(top, relative, os.O_RDONLY) as handle, os.fdopen(os.dup(handle), "rb") as file:
        size = os.fstat(handle).st_size
        file.seek(max(0, size + offset) if offset < 0 else offset)
        return file.read(limit)


def file_size(top: Path, relative: str) -> int:
    """Return the size of a file in bytes. Raises FileNotFoundError if there is none."""
    with _opened(top, relative, os.O_RDONLY) as handle:
        return os.fstat(handle).st_size


def write_file(top: Path, relative: str, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file at once or not at all, in the place of whatever has its name; a directory there is refused."""
    folder, name = _split(relative)
    data = content.encode() if isinstance(content, str) else content
    with open_directory(top, folder, make=True) as directory:
        fresh = f".{name}.{secrets.token_hex(8)}"
        handle = os.open(fresh, _NEW, mode, dir_fd=directory)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except IsADirectoryError as error:
            raise _refusal(top / relative, "is a directory") from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=directory)


def open_to_append(top: Path, relative: str) -> int:
    """Return a descriptor that appends to a file; a file that is missing is made. The caller closes it."""
    folder, name = _split(relative)
    with open_directory(top, folder, make=True) as directory:
        with suppress(FileExistsError):
            os.close(os.open(name, _NEW, 0o644, dir_fd=directory))
        with _opened(top, relative, os.O_WRONLY | os.O_APPEND) as handle:
            return os.dup(handle)


def remove_file(top: Path, relative: str) -> None:
    """Remove a name, be it a link, from its directory; a directory that a link stands for is never entered."""
    folder, name = _split(relative)
    with suppress(FileNotFoundError), open_directory(top, folder) as directory:
        os.unlink(name, dir_fd=directory)


def is_there(top: Path, relative: str) -> bool:
    """Whether anything has this name, a link included; a link in the middle of the path is refused."""
    folder, name = _split(relative)
    try:
        with open_directory(top, folder) as directory:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def names_in(top: Path, relative: str) -> list[str]:
    """Return the names in a directory, at most MAX_ENTRIES; none if it is missing."""
    try:
        with open_directory(top, relative) as directory, os.scandir(directory) as entries:
            return sorted(entry.name for entry, _ in zip(entries, range(MAX_ENTRIES), strict=False))
    except FileNotFoundError:
        return []


def holds_name(top: Path, relative: str, name: str, levels: int) -> bool:
    """Whether anything below the directory is called ``name``, at most ``levels`` deep; links are not followed.

    Raises NodeFileRefused when more than MAX_ENTRIES entries lie there.
    """
    with open_directory(top, relative) as directory:
        return _holds(directory, name, levels, [MAX_ENTRIES], top / relative)


def _holds(directory: int, name: str, levels: int, left: list[int], path: Path) -> bool:
    below = []
    with os.scandir(directory) as entries:
        for entry in entries:
            left[0] -= 1
            if left[0] < 0:
                raise _refusal(path, f"holds more than {MAX_ENTRIES} entries")
            if entry.name == name:
                return True
            if levels > 1 and entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
    for part in below:
        try:
            inner = _open(part, directory, path / part)
        except FileNotFoundError:
            continue
        try:
            if _holds(inner, name, levels - 1, left, path / part):
                return True
        finally:
            os.close(inner)
    return False


def accepts_connection(top: Path, relative: str, timeout_s: float) -> bool:
    """Whether a process accepts connections on the unix socket; False if there is none."""
    folder, name = _split(relative)
    try:
        with open_directory(top, folder) as directory:
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        if not stat.S_ISSOCK(os.fstat(handle).st_mode):
            raise _refusal(top / relative, "is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            return client.connect_ex(f"/proc/self/fd/{handle}") == 0
    finally:
        os.close(handle)


@contextmanager
def _opened(top: Path, relative: str, flags: int) -> Iterator[int]:
    """Give a descriptor of a regular file with one name; raises NodeFileRefused for anything else."""
    folder, name = _split(relative)
    with open_directory(top, folder) as directory:
        seen = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(seen)
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(top / relative, f"is {_kind(status.st_mode)}")
        if status.st_nlink > 1:
            raise _refusal(top / relative, "has another name (a hard link)")
        # The same file whatever has its name by now.
        handle = os.open(f"/proc/self/fd/{seen}", flags | os.O_CLOEXEC)
    finally:
        os.close(seen)
    try:
        yield handle
    finally:
        os.close(handle)


def _open(name: str | Path, directory: int | None, path: Path) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno in _LINKED:
            raise _refusal(path, "is a link or a file where a directory has to be") from error
        raise


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a directory"}
    return kinds.get(stat.S_IFMT(mode), "a device or a socket")


def _refusal(path: Path, what: str) -> NodeFileRefused:
    return NodeFileRefused(
        f"{path} {what}: it was not used, because a node must not choose files of the control plane. "
        "Rebuild the node, and find out who changed its files"
    )


def _split(relative: str) -> tuple[str, str]:
    parts = _parts(relative)
    return "/".join(parts[:-1]), parts[-1]


def _parts(relative: str) -> tuple[str, ...]:
    parts = PurePosixPath(relative).parts
    if any(part in ("..", "/") for part in parts):
        raise ValueError(f"{relative!r} does not stay below its directory")
    return parts

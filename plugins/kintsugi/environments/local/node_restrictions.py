"""What root on a local node may not do to the machine.

1. Every file system of the machine is read-only to it, but for ``/proc``, ``/sys``, ``/run``, ``/tmp`` and ``/dev``.
   What the node may write to is mounted over that afterwards.
2. Its ``/dev`` has the devices that programs need, and no disk.
3. Its processes never get the capabilities below back: they could undo all that, or change the machine itself. The
   network interface is the machine's, so its firewall is out of reach too.
"""

from __future__ import annotations

import ctypes
import os
import platform
from enum import IntEnum
from pathlib import Path

MS_BIND, MS_REC = 0x1000, 0x4000
_MS_RDONLY, _MS_NOSUID, _MS_NOEXEC, _MS_REMOUNT = 0x1, 0x2, 0x8, 0x20

_libc = ctypes.CDLL(None, use_errno=True)
_MOUNT_SETATTR = 442  # the same on every architecture; older libraries have no function for it
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 0x1
_PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, _PR_SET_NO_NEW_PRIVS = 24, 47, 4, 38
_KERNEL_OWN = ("proc", "sys", "dev", "run", "tmp")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


class Capability(IntEnum):
    """Capabilities that no process of a node has; numbers of ``linux/capability.h``."""

    DAC_READ_SEARCH = 2  # opens files of the machine by their handles, past every mount
    LINUX_IMMUTABLE = 9
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_MODULE = 16
    SYS_RAWIO = 17
    SYS_PACCT = 20
    SYS_ADMIN = 21
    SYS_BOOT = 22
    SYS_TIME = 25
    MKNOD = 27
    MAC_OVERRIDE = 32
    MAC_ADMIN = 33
    SYSLOG = 34
    WAKE_ALARM = 35
    BLOCK_SUSPEND = 36
    PERFMON = 38
    BPF = 39
    CHECKPOINT_RESTORE = 40


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    """Call the system call of this name. Raises OSError with both paths."""
    encoded = [text.encode() if text is not None else None for text in (source, str(target), kind, data)]
    if _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]) != 0:
        raise _error(f"mount {source} on {target}")


def make_read_only(path: Path) -> None:
    """Make the mount at ``path`` and all below it read-only. Raises OSError, also for a kernel before 5.12."""
    attributes = _MountAttributes(set=_MOUNT_ATTR_RDONLY)
    done = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR), _AT_FDCWD, str(path).encode(), _AT_RECURSIVE,
        ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)),
    )  # fmt: skip
    if done != 0:
        raise _error(f"make {path} read-only (Linux {platform.release()}; 5.12 is needed)")


def protect_file_systems() -> None:
    """Make every directory of the machine read-only, apart from those of the kernel and ``/tmp``."""
    for path in sorted(Path("/").iterdir()):
        if path.name not in _KERNEL_OWN and path.is_dir() and not path.is_symlink():
            mount(str(path), path, None, MS_BIND | MS_REC)
            make_read_only(path)


def replace_devices() -> None:
    """Mount a ``/dev`` without disks over the machine's. Raises OSError."""
    dev = Path("/dev")
    devices = [name for name in (*_DEVICES, "pts") if (dev / name).exists()]
    handles = {name: os.open(dev / name, os.O_PATH) for name in devices}
    flags = _MS_NOSUID | _MS_NOEXEC
    mount("tmpfs", dev, "tmpfs", flags, "size=64k,mode=755")
    for name, handle in handles.items():
        target = dev / name
        if name == "pts":
            target.mkdir()
        else:
            target.touch()
        mount(f"/proc/self/fd/{handle}", target, None, MS_BIND)
        os.close(handle)
    for name, leads_to in _LINKS.items():
        (dev / name).symlink_to(leads_to)
    (dev / "shm").mkdir()
    mount("tmpfs", dev / "shm", "tmpfs", flags, "mode=1777")
    mount("none", dev, None, _MS_REMOUNT | MS_BIND | _MS_RDONLY | flags)  # and nothing below it


def drop_capabilities() -> None:
    """Take every `Capability` from this process and all its children, for ever. Raises OSError."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in Capability:
        if _libc.prctl(_PR_CAPBSET_DROP, int(capability), 0, 0, 0) != 0:
            raise _error(f"drop CAP_{capability.name}")
    # execve gives root nothing that is not in the bounding set; this holds for programs with a set-user-id bit too.
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _error("set no-new-privileges")


def _error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")

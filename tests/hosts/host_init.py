"""The first process of a test host: it makes the host's own file system and becomes the parent of its sshd.

Runs in new mount, PID, UTS and network namespaces as ``host_init.py <root> <name> <path>…``. ``root`` is the host's
disk: what the host writes lies there only. Each ``path`` is shown to it read-only: programs and artifacts, as an image
would hold them. Nothing else of the machine can be reached afterwards.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

from kintsugi.environments.local.node_restrictions import MS_BIND, MS_REC, make_read_only, mount

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MNT_DETACH = 2
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


def make_file_system(root: Path, shown: list[Path]) -> None:
    """Make the host's file system at ``root``: its own directories, and what is shown to it read-only."""
    mount(str(root), root, None, MS_BIND)
    for name in ("proc", "dev", "run", "tmp", "var/tmp", "var/log", "root"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("run", "tmp"):  # first: what is shown may lie below them
        mount("tmpfs", root / name, "tmpfs", 0, "mode=1777" if name == "tmp" else "mode=755")
    for path in shown:
        target = root / path.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        mount(str(path), target, None, MS_BIND | MS_REC)
        make_read_only(target)
    for name in ("bin", "sbin", "lib", "lib64"):  # links into /usr
        if not (root / name).exists() and Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    mount("proc", root / "proc", "proc", 0)
    make_devices(root / "dev")


def make_devices(dev: Path) -> None:
    mount("tmpfs", dev, "tmpfs", 0, "mode=755,size=64k")
    for name, numbers in DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(*numbers))
        (dev / name).chmod(0o666)
    for name, leads_to in LINKS.items():
        (dev / name).symlink_to(leads_to)
    (dev / "pts").mkdir()
    mount("devpts", dev / "pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620,gid=5")
    (dev / "shm").mkdir()
    mount("tmpfs", dev / "shm", "tmpfs", 0, "mode=1777")


def leave_the_machine(root: Path) -> None:
    """Make ``root`` the only root of this mount namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(root)
    # With both at one place, what was the root lies on top, and is detached (pivot_root(2)).
    if libc.syscall(ctypes.c_long(PIVOT_ROOT[platform.machine()]), b".", b".") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root")
    if libc.umount2(b".", MNT_DETACH) != 0:
        raise OSError(ctypes.get_errno(), "umount of the former root")
    os.chdir("/")


def main(root: Path, name: str, shown: list[Path]) -> None:
    """Become the init of the host; ends with its sshd."""
    make_file_system(root, shown)
    leave_the_machine(root)
    socket.sethostname(name)
    Path("/run/sshd").mkdir(mode=0o755)
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin") or "/usr/sbin/sshd"
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    daemon = subprocess.Popen([sshd, "-D", "-e"], env=environment)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while os.wait()[0] != daemon.pid:  # whatever loses its parent becomes ours
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [Path(path) for path in sys.argv[3:]])

"""Mount faults: a node's volume that is not mounted any more, and a control plane with a full disk.

*Unmounted volume*: an empty, read-only file system is mounted over the volume, only in the node's mount namespace. The
node sees no data directory, and can't write data that would be lost later. Open files of a service stay open. The
mount ends with the namespace, at the latest when the node is powered off.

*Full disk of the control plane*: an overlay over the directories that Terraform and Ansible write to. All files there
can still be read, and every write fails with ENOSPC. No real disk is filled.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_disk import run_inside
from kintsugi.environments.local.node_isolation import choose_isolation

_TIMEOUT_S = 20.0
_LABEL = "kintsugi-chaos"  # the mounts' source, by which they are found again
_SIZE_KIB = 256

# $1 is the volume; grep looks for our own mount on it.
_UNMOUNT = f"""
grep -q "^{_LABEL} $1 " /proc/mounts || mount -t tmpfs -o ro,size=64k,mode=755 {_LABEL} "$1"
"""
_REMOUNT = f"""
while grep -q "^{_LABEL} $1 " /proc/mounts; do umount -l "$1" && echo mounted || exit 1; done
"""
# $1 is the directory to fill, $2 one of ours for the full file system.
_FILL = f"""
set -e
if grep -q "^{_LABEL} $1 " /proc/mounts; then exit 0; fi
mkdir -p "$1" "$2"
mount -t tmpfs -o size={_SIZE_KIB}k,mode=700 {_LABEL} "$2"
mkdir "$2/new" "$2/work"
mount -t overlay -o "lowerdir=$1,upperdir=$2/new,workdir=$2/work" {_LABEL} "$1" || {{ umount "$2"; exit 1; }}
dd if=/dev/zero of="$2/filler" bs=4k 2>/dev/null || true
umount -l "$2"
"""


def unmount_unavailable(settings: Settings) -> str | None:
    """Why no volume can be unmounted here; None when it can."""
    if settings.fleet.environment != "local":
        return "the mounts of a container belong to its engine"
    if not choose_isolation().hides_files:
        return "nodes have no mount namespace of their own here"
    return None


def unmount_volume(settings: Settings, name: str) -> None:
    """Show the node an empty, read-only volume. Raises StepFailed when it does not run or the kernel refuses."""
    done = run_inside(settings, name, _UNMOUNT)
    if done is None or done.returncode:
        said = "the node does not run" if done is None else done.stderr.strip()
        raise StepFailed(f"the volume of {name} can't be unmounted: {said}")


def mount_volume(settings: Settings, name: str) -> bool:
    """Show the node its volume again; False when it is mounted or the node is gone."""
    done = run_inside(settings, name, _REMOUNT)
    return done is not None and "mounted" in done.stdout


def full_disk_unavailable() -> str | None:
    """Why a full disk of the control plane can't be simulated; None when it can."""
    return None if os.geteuid() == 0 else "a mount over the control plane's directories needs root"


def scratch_directories(settings: Settings) -> list[Path]:
    """Where Terraform and Ansible write."""
    return [settings.control / "terraform", settings.control / "ansible"]


def fill_control_plane(settings: Settings) -> None:
    """Fill the directories where Terraform and Ansible write. Raises StepFailed, with nothing filled."""
    try:
        for directory in scratch_directories(settings):
            target = directory.resolve()
            done = _run_shell(_FILL, [str(target), str(target.with_name(f".{target.name}-full"))])
            if done.returncode:
                raise StepFailed(f"{directory} can't be filled: {done.stderr.strip()}")
    except StepFailed:
        free_control_plane(settings)
        raise


def free_control_plane(settings: Settings) -> bool:
    """Undo `fill_control_plane`; False when nothing was mounted. Raises StepFailed."""
    freed = False
    for directory in scratch_directories(settings):
        target = directory.resolve()
        full = target.with_name(f".{target.name}-full")
        for path in (target, full):
            done = _run_shell(_REMOUNT, [str(path)])
            if done.returncode:
                raise StepFailed(f"{path} can't be unmounted: {done.stderr.strip()}")
            freed = freed or "mounted" in done.stdout
        if full.is_dir():
            full.rmdir()
    return freed


def _run_shell(script: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script, "sh", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )

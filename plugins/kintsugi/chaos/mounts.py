"""Mounts that go wrong: a node's volume that isn't mounted any more, and a control plane whose disk is full.

*Unmounted volume*: an empty file system, read-only, is laid over the volume in the node's mount namespace alone. The
node sees no data directory, and can write nothing that would be lost later. Files that a service has open stay open.
It ends with the namespace: at the latest when the node loses its power.

*Full disk of the control plane*: an overlay over the directories that Terraform and Ansible write to. All files there
can still be read, and each new byte meets a full file system (ENOSPC). Nobody else's disk is filled.
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
    """Why no node here can lose its mount; None when it can."""
    if settings.fleet.environment != "local":
        return "the mounts of a container belong to its engine"
    if not choose_isolation().hides_files:
        return "nodes have no mount namespace of their own here"
    return None


def unmount_volume(settings: Settings, name: str) -> None:
    """Let the node see an empty, read-only volume. Raises StepFailed when it doesn't run, or the kernel refuses."""
    done = run_inside(settings, name, _UNMOUNT)
    if done is None or done.returncode:
        said = "it doesn't run" if done is None else done.stderr.strip()
        raise StepFailed(f"the volume of {name} can't be unmounted: {said}")


def mount_volume(settings: Settings, name: str) -> bool:
    """Give the node its volume back; False when it has it, or the node is gone."""
    done = run_inside(settings, name, _REMOUNT)
    return done is not None and "mounted" in done.stdout


def full_disk_unavailable() -> str | None:
    """Why the control plane can't be given a full disk; None when it can."""
    return None if os.geteuid() == 0 else "a mount over the control plane's directories needs root"


def scratch_directories(settings: Settings) -> list[Path]:
    """Where Terraform and Ansible write."""
    return [settings.control / "terraform", settings.control / "ansible"]


def fill_control_plane(settings: Settings) -> None:
    """Leave no free byte where Terraform and Ansible write. Raises StepFailed, with nothing filled."""
    try:
        for directory in scratch_directories(settings):
            target = directory.resolve()
            done = _shell(_FILL, [str(target), str(target.with_name(f".{target.name}-full"))])
            if done.returncode:
                raise StepFailed(f"{directory} can't be made full: {done.stderr.strip()}")
    except StepFailed:
        free_control_plane(settings)
        raise


def free_control_plane(settings: Settings) -> bool:
    """Take back what `fill_control_plane` mounted; False when nothing was. Raises StepFailed."""
    freed = False
    for directory in scratch_directories(settings):
        target = directory.resolve()
        full = target.with_name(f".{target.name}-full")
        for path in (target, full):
            done = _shell(_REMOUNT, [str(path)])
            if done.returncode:
                raise StepFailed(f"{path} can't be unmounted: {done.stderr.strip()}")
            freed = freed or "mounted" in done.stdout
        if full.is_dir():
            full.rmdir()
    return freed


def _shell(script: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script, "sh", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )

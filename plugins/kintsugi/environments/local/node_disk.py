"""A full disk for one local node, while the machine's own disk stays free.

An overlay is mounted over the node's volume, in the node's mount namespace only. Everything on the volume can still be
read. Every new byte would go to a file system in memory of SIZE_MIB, which is full already (ENOSPC). So all that the
service acknowledged before is on the volume, and nothing is written later: nothing is lost when the overlay is removed.
It ends with the namespace, at the latest when the node is powered off.
"""

from __future__ import annotations

import subprocess

from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_isolation import Isolation, choose_isolation
from kintsugi.environments.local.node_process import is_running, read_record

SIZE_MIB = 16
_TIMEOUT_S = 20.0
_FULL = "/run/kintsugi-full-disk"

# $1 is the volume, $2 a directory of the node's own /run. The file that fills the disk exists in the overlay only, so
# it shows whether the overlay is mounted.
_FILL = f"""
set -e
if [ -e "$1/filler" ]; then exit 0; fi
mkdir -p "$2"
mount -t tmpfs -o size={SIZE_MIB}m,mode=700 tmpfs "$2"
mkdir "$2/new" "$2/work"
dd if=/dev/zero of="$2/new/filler" bs=64k 2>/dev/null || true
mount -t overlay -o "lowerdir=$1,upperdir=$2/new,workdir=$2/work" overlay "$1" || {{ umount "$2"; exit 1; }}
umount -l "$2"
"""
_FREE = """
if [ -e "$1/filler" ]; then umount -l "$1" && echo freed; fi
"""


def reason_unavailable() -> str | None:
    """Return why no node's disk can be filled on this machine; None if it can."""
    if choose_isolation().hides_files:
        return None
    return "nodes have no mount namespace of their own here, and the machine's own disk must not be filled"


def fill_volume(settings: Settings, name: str) -> None:
    """Fill the volume of node ``name``; files that are open already can still be written.

    Raises StepFailed if the node doesn't run or the kernel refuses the mount.
    """
    if (why := reason_unavailable()) is not None:
        raise StepFailed(f"the disk of {name} can't be filled: {why}")
    done = run_inside(settings, name, _FILL, _FULL)
    if done is None or done.returncode:
        reason = "the node doesn't run" if done is None else done.stderr.strip()
        raise StepFailed(f"the disk of {name} can't be filled: {reason}")


def free_volume(settings: Settings, name: str) -> bool:
    """Undo `fill_volume`; returns False if the volume wasn't filled, or the node is gone.

    A process that has files open on the overlay keeps them until it ends.
    """
    done = run_inside(settings, name, _FREE, _FULL)
    return done is not None and "freed" in done.stdout


def run_inside(
    settings: Settings, name: str, script: str, *arguments: str
) -> subprocess.CompletedProcess[str] | None:
    """Run a script in the node's mount namespace with the right to mount; returns None if the node doesn't run.

    Its first argument is the node's volume; ``arguments`` follow.
    """
    record = read_record(settings, name)
    if record is None or not is_running(record):
        return None
    user = ["--user", "--preserve-credentials"] if record.isolation == Isolation.USER_NAMESPACES else []
    # With its PID namespace, because mount(8) and umount(8) look for themselves in /proc.
    command = ["nsenter", "--target", str(record.pid), *user, "--mount", "--pid", "--"]
    volume = str(settings.node_volume(name).resolve())
    return subprocess.run(
        [*command, "sh", "-c", script, "sh", volume, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )

"""A full disk for one local node, while the machine's own disk keeps its room.

An overlay is laid over the node's volume, in the node's mount namespace alone: everything on the volume is still
read, and every new byte would go to a file system in memory of SIZE_MIB that is full already (ENOSPC). What the
service acknowledged before therefore lies on the volume beneath, and after it nothing can be written, so nothing is
lost by taking the overlay away. It ends with the namespace: at the latest when the node loses its power.
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

# $1 is the volume, $2 a directory of the node's own /run. The file that fills the disk is what tells the overlay from
# the volume: it exists nowhere else.
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
    """Why no node of this machine can be given a full disk; None when it can."""
    if choose_isolation().hides_files:
        return None
    return "nodes have no mount namespace of their own here, and the machine's own disk isn't filled"


def fill_volume(settings: Settings, name: str) -> None:
    """Let the volume of node ``name`` be full from now on; files that are open already don't notice.

    Raises StepFailed when the node doesn't run or the kernel refuses the mount.
    """
    if (why := reason_unavailable()) is not None:
        raise StepFailed(f"{name} can't get a full disk: {why}")
    done = run_inside(settings, name, _FILL, _FULL)
    if done is None or done.returncode:
        said = "it doesn't run" if done is None else done.stderr.strip()
        raise StepFailed(f"{name} can't get a full disk: {said}")


def free_volume(settings: Settings, name: str) -> bool:
    """Give node ``name`` its own volume back; False when it wasn't full, or is gone.

    What has files open on the full one goes on with them until it ends.
    """
    done = run_inside(settings, name, _FREE, _FULL)
    return done is not None and "freed" in done.stdout


def run_inside(
    settings: Settings, name: str, script: str, *arguments: str
) -> subprocess.CompletedProcess[str] | None:
    """Run a script in the node's mount namespace with the right to mount; None when the node doesn't run.

    Its first argument is the node's volume; ``arguments`` follow.
    """
    record = read_record(settings, name)
    if record is None or not is_running(record):
        return None
    user = ["--user", "--preserve-credentials"] if record.isolation == Isolation.USER_NAMESPACES else []
    # Its processes too, because mount(8) and umount(8) look for themselves in the /proc that they see.
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

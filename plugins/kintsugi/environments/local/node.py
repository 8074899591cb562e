"""Nodes of the local environment: process trees with an address, a root and a volume of their own.

Terraform's ``terraform_data`` calls this module to create and destroy them, and chaos calls it to break them. Every
function may be killed at any point and run again. The data of a destroyed node is not deleted: it moves to the
quarantine, which keeps the newest few.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.processes import start_time
from kintsugi.core.settings import Settings, allowed_variables, load_settings
from kintsugi.environments import node_files
from kintsugi.environments.local.node_config import search_path, write_configuration
from kintsugi.environments.local.node_isolation import Isolation, choose_isolation, init_prefix
from kintsugi.environments.local.node_process import (
    MARK,
    InitRecord,
    is_running,
    kill_all,
    member_pids,
    namespace_of,
    read_record,
    record_path,
    signal_all,
    write_record,
)
from kintsugi.infra.ssh import ssh_user

Action = Callable[[Settings, str], None]

SOCKET, INIT_LOG = "run/supervisor.sock", "log/init.log"  # of a node's init, below its root
LAST_LINE_LENGTH = 500
QUARANTINE_KEEP = 3
HELD = "held-until"  # a file in a part of the quarantine: an ISO time before which it isn't deleted
HELD_ROOM = 2 * 2**30
"""Bytes. With less free, held parts are deleted too: a control plane without space repairs nothing."""
_BOOT_TIMEOUT_S = 30.0


def create_node(settings: Settings, name: str) -> None:
    """Create the node ``name`` of the fleet and wait until its init and its sshd answer.

    A running node is left alone. Raises FleetError for an unknown name, PreflightError if a program is
    missing, StepFailed if the node isn't up within 30 s.
    """
    fleet = settings.known_fleet
    node = fleet.node(name)

    def write_files(isolation: Isolation) -> None:
        write_configuration(settings, node, fleet.control_plane, isolation, ssh_user())

    start_node(settings, node, write_files)


def start_node(settings: Settings, node: Node, write_files: Callable[[Isolation], None]) -> None:
    """Start ``node`` on this machine and wait until it answers; a running one is left alone.

    ``write_files`` writes what its init reads. Raises StepFailed if the node isn't up within 30 s.
    """
    name = node.name
    if is_alive(settings, name):
        await_boot(settings, node, lambda: is_alive(settings, name))
        return
    kill_all(settings, name)  # a killed creation may have left some
    record_path(settings, name).unlink(missing_ok=True)
    isolation = choose_isolation()
    if not isolation.hides_files and os.geteuid() == 0:
        # sshd under root needs it for privilege separation; with a mount namespace each node has its own.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    create_volume(settings, name)
    write_files(isolation)
    _boot_node(settings, name, isolation)
    await_boot(settings, node, lambda: is_alive(settings, name))


def destroy_node(settings: Settings, name: str) -> None:
    """End everything of a node and move its root to the quarantine; it is no error if there is no such node.

    Raises StepFailed if a process of the node survives; then nothing has been moved.
    """
    kill_all(settings, name)
    record_path(settings, name).unlink(missing_ok=True)
    keep_root(settings, name)


def keep_root(settings: Settings, name: str) -> None:
    """Move the root of a node that has ended to the quarantine; it is no error if there is none."""
    _move_to_quarantine(settings, name, settings.node_root(name), "root")


def create_volume(settings: Settings, name: str) -> None:
    """Create the empty volume of a node; an existing one keeps its data."""
    node_files.make_directory(settings.node_volume(name), "data", mode=0o700)


def destroy_volume(settings: Settings, name: str) -> None:
    """Move the volume of a node to the quarantine; it is no error if there is none."""
    _move_to_quarantine(settings, name, settings.node_volume(name), "volume")


def volume_exists(settings: Settings, name: str) -> bool:
    """What the platform knows of a node's disk: whether it is still there.

    Anything with its name counts, because a disk that counts as lost may be replaced without a person's approval.
    """
    return node_files.is_there(settings.node_volume(name), "data")


def volume_formatted(settings: Settings, name: str, mark: str | None) -> bool | None:
    """Whether the volume has ``mark`` within three levels (None: whether it exists); None if it can't be read."""
    if not volume_exists(settings, name):
        return False
    try:
        return mark is None or node_files.holds_name(settings.node_volume(name), "data", mark, levels=3)
    except (OSError, node_files.NodeFileRefused):
        return None


def read_incarnation(settings: Settings, name: str) -> str | None:
    """Return the incarnation of the node that runs, ``<pid>@<start in clock ticks>``; None if its init doesn't run."""
    record = read_record(settings, name)
    return f"{record.pid}@{record.start_time}" if record is not None and is_running(record) else None


def is_alive(settings: Settings, name: str) -> bool:
    """Whether the recorded init of the node runs (it may be suspended)."""
    return is_running(read_record(settings, name))


def power_off(settings: Settings, name: str, *, lose_volume: bool = False) -> None:
    """End the whole node at once, by SIGKILL to its init; with ``lose_volume`` remove its disk too.

    Returns when nothing of the node runs. Terraform's state and the record stay, as after a real power cut.
    """
    kill_all(settings, name)
    if lose_volume:
        destroy_volume(settings, name)


def suspend_node(settings: Settings, name: str) -> int:
    """Stop every process of a node, like a host that stalls; returns how many there are."""
    return signal_all(settings, name, signal.SIGSTOP, stopped=True)


def resume_node(settings: Settings, name: str) -> int:
    """Let a suspended node go on; returns how many processes it has."""
    return signal_all(settings, name, signal.SIGCONT, stopped=False)


def node_pids(settings: Settings, name: str) -> list[int]:
    """Return the host PIDs of all live processes of a node."""
    return list(member_pids(settings, name))


def quarantined_parts(settings: Settings, name: str) -> list[Path]:
    """Return the parts of the quarantine from destroyed nodes of this name, newest first."""
    paths = settings.quarantine.glob(f"{name}.[0-9]*")
    return sorted((path for path in paths if path.is_dir()), reverse=True)


def purge_quarantine(settings: Settings, name: str, keep: int = 0) -> None:
    """Delete the parts of this name except the ``keep`` newest ones and those that are held."""
    for path in quarantined_parts(settings, name)[keep:]:
        if not is_held(path, datetime.now(UTC)):
            shutil.rmtree(path, ignore_errors=True)


def hold_quarantine(settings: Settings, name: str, until: datetime) -> list[Path]:
    """Hold all present parts of this name until then (UTC), however many come after them; returns them."""
    parts = quarantined_parts(settings, name)
    for path in parts:
        (path / HELD).write_text(until.isoformat())
    return parts


def is_held(path: Path, now: datetime) -> bool:
    """Whether this part of the quarantine is held at ``now`` (UTC)."""
    try:
        return now < datetime.fromisoformat((path / HELD).read_text().strip())
    except (OSError, ValueError):
        return False


def expire_quarantine(settings: Settings, now: datetime) -> list[Path]:
    """Delete the parts whose hold has ended; while the disk is short of space, held ones too, oldest first.

    Returns the deleted parts. Parts that were never held stay: `purge_quarantine` limits them.
    """
    held_parts = [path for path in settings.quarantine.glob("*.[0-9]*") if (path / HELD).exists()]
    deleted = []
    for path in sorted(held_parts, key=lambda path: path.name.rpartition(".")[0].rpartition(".")[2]):
        if not is_held(path, now) or shutil.disk_usage(settings.quarantine).free < HELD_ROOM:
            shutil.rmtree(path, ignore_errors=True)
            deleted.append(path)
    return deleted


def _move_to_quarantine(settings: Settings, name: str, path: Path, part: str) -> None:
    if not path.exists():
        return
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = settings.quarantine / f"{name}.{stamp}" / part
    target.parent.mkdir(mode=0o700, parents=True)
    path.rename(target)
    purge_quarantine(settings, name, keep=2 * QUARANTINE_KEEP)  # a root and a volume each


def _node_environment(settings: Settings, name: str, isolation: Isolation) -> dict[str, str]:
    """Return all that a node inherits. It is an allow-list, because the caller's environment may have secrets."""
    root = settings.node_root(name)
    return allowed_variables(os.environ, ("JAVA_HOME", "LANG", "TZ")) | {
        "PATH": search_path(),
        "HOME": str(root),
        "TMPDIR": str(root / "tmp"),
        "PYTHONPATH": str(settings.repository / "plugins"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "KINTSUGI_STATE": str(settings.state),
        "KINTSUGI_CACHE": str(settings.cache),
        "KINTSUGI_FLEET": str(settings.fleet_file),
        "KINTSUGI_ISOLATION": isolation.value,
        "KINTSUGI_NODE": name,
        MARK: str(root),
    }


def _boot_node(settings: Settings, name: str, isolation: Isolation) -> None:
    root = settings.node_root(name)
    command = [*init_prefix(isolation), sys.executable, "-m", "kintsugi.environments.local.node_init", name]
    node_files.remove_file(root, SOCKET)
    with os.fdopen(node_files.open_to_append(root, INIT_LOG), "ab") as log:
        parent = subprocess.Popen(
            command,
            cwd="/",
            env=_node_environment(settings, name, isolation),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    pid = parent.pid if not isolation.hides_files else _only_child(parent, name)
    started = start_time(pid)
    if started is None:
        raise StepFailed(_boot_failure(settings, name, "its init ended at once"))
    space = namespace_of(pid) if isolation.hides_files else None
    write_record(settings, name, InitRecord(pid, started, space, isolation.value))


def _only_child(parent: subprocess.Popen[bytes], name: str) -> int:
    """Return the host PID of the process that ``unshare`` forks: the init."""
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while time.monotonic() < deadline and parent.poll() is None:
        pids = children.read_text().split()
        if pids:
            return int(pids[0])
        time.sleep(0.005)
    raise StepFailed(
        f"{name}: its init was not started (unshare ended with {parent.returncode}); see log/init.log"
    )


def await_boot(settings: Settings, node: Node, alive: Callable[[], bool]) -> None:
    """Wait until the node's init and its sshd answer; raises StepFailed if it isn't ``alive``, or after 30 s."""
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    root = settings.node_root(node.name)
    while time.monotonic() < deadline:
        if not alive():
            raise StepFailed(_boot_failure(settings, node.name, "its init ended"))
        if node_files.accepts_connection(root, SOCKET, timeout_s=1) and _accepts(node.address, node.ssh_port):
            return
        time.sleep(0.05)
    raise StepFailed(
        _boot_failure(settings, node.name, f"no sshd at {node.address}:{node.ssh_port} after 30 s")
    )


def _accepts(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        return client.connect_ex((address, port)) == 0


def _boot_failure(settings: Settings, name: str, what: str) -> str:
    root = settings.node_root(name)
    try:
        lines = node_files.read_tail(root, INIT_LOG).decode(errors="replace").strip().splitlines()
        last = lines[-1][-LAST_LINE_LENGTH:] if lines else "(empty)"
    except (OSError, node_files.NodeFileRefused) as error:
        last = f"(not readable: {error})"
    return f"{name} did not start: {what}; last line of {root / INIT_LOG}: {last}"


def main(arguments: list[str]) -> int:
    """Run ``create-node``, ``destroy-node``, ``create-volume`` or ``destroy-volume`` for ``$KINTSUGI_NODE``."""
    actions = {
        "create-node": create_node,
        "destroy-node": destroy_node,
        "create-volume": create_volume,
        "destroy-volume": destroy_volume,
    }
    return run_action(actions, arguments)


def run_action(actions: Mapping[str, Action], arguments: list[str]) -> int:
    """Run the action that the one argument names for ``$KINTSUGI_NODE``; returns the exit code for Terraform."""
    name = os.environ.get("KINTSUGI_NODE", "")
    if len(arguments) != 1 or arguments[0] not in actions or not name:
        print(f"usage: KINTSUGI_NODE=<name> python -m <module> {'|'.join(actions)}", file=sys.stderr)
        return 2
    try:
        actions[arguments[0]](load_settings(), name)
    except (KintsugiError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

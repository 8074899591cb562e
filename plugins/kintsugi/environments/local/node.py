"""Servers of the local environment: process trees with an address, a root and a volume of their own.

What Terraform's ``terraform_data`` calls to create and destroy them, and what chaos calls to break them.
Every function may be killed at any point and run again. A node's data is never deleted when the node
is destroyed: it moves to the quarantine, which keeps the newest few.
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
from kintsugi.core.settings import Settings, inherited, load_settings
from kintsugi.environments import node_files
from kintsugi.environments.local.node_config import search_path, write_configuration
from kintsugi.environments.local.node_isolation import Isolation, choose_isolation, init_prefix
from kintsugi.environments.local.node_process import (
    MARK,
    InitRecord,
    kill_all,
    members,
    namespace_of,
    read_record,
    record_path,
    running,
    signal_all,
    start_time,
    write_record,
)
from kintsugi.infra.ssh import ssh_user

Action = Callable[[Settings, str], None]

SOCKET, INIT_LOG = "run/supervisor.sock", "log/init.log"  # of a node's init, below its root
LAST_LINE_LENGTH = 500
QUARANTINE_KEEP = 3
HELD = "held-until"  # a file in a part of the quarantine: an ISO time before which it isn't deleted
HELD_ROOM = 2 * 2**30
"""Bytes. With less free, what is held gives way: a control plane without room repairs nothing."""
_BOOT_TIMEOUT_S = 30.0


def create_node(settings: Settings, name: str) -> None:
    """Make the node ``name`` of the fleet and wait until its init and its sshd answer.

    A living node is left alone. Raises FleetError for an unknown name, PreflightError when a program is
    missing, StepFailed when the node doesn't come up within 30 s.
    """
    fleet = settings.fleet
    node = fleet.node(name)
    if is_alive(settings, name):
        await_boot(settings, node, lambda: is_alive(settings, name))
        return
    kill_all(settings, name)  # what a killed creation may have left
    record_path(settings, name).unlink(missing_ok=True)
    isolation = choose_isolation()
    if not isolation.hides_files and os.geteuid() == 0:
        # sshd under root wants it for privilege separation; behind a wall each node has its own.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    create_volume(settings, name)
    write_configuration(settings, node, fleet.control_plane, isolation, ssh_user())
    _boot(settings, name, isolation)
    await_boot(settings, node, lambda: is_alive(settings, name))


def destroy_node(settings: Settings, name: str) -> None:
    """End everything of a node and move its root to the quarantine; no node of that name is no error.

    Raises StepFailed when a process of the node survives: then nothing has been moved.
    """
    kill_all(settings, name)
    record_path(settings, name).unlink(missing_ok=True)
    keep_root(settings, name)


def keep_root(settings: Settings, name: str) -> None:
    """Move the root of a node that has ended to the quarantine; no root of that name is no error."""
    _quarantine(settings, name, settings.node_root(name), "root")


def create_volume(settings: Settings, name: str) -> None:
    """Make the (empty) volume of a node; an existing one keeps its data."""
    node_files.make_directory(settings.node_volume(name), "data", mode=0o700)


def destroy_volume(settings: Settings, name: str) -> None:
    """Move the volume of a node to the quarantine; no volume of that name is no error."""
    _quarantine(settings, name, settings.node_volume(name), "volume")


def volume_exists(settings: Settings, name: str) -> bool:
    """What the platform knows of a node's disk: whether it is still there.

    Anything with its name counts, because a disk that counts as lost may be replaced without a person's approval.
    """
    return node_files.is_there(settings.node_volume(name), "data")


def volume_formatted(settings: Settings, name: str, mark: str | None) -> bool | None:
    """Whether the volume holds ``mark`` at most three levels down (None: whether it exists); None when unreadable."""
    if not volume_exists(settings, name):
        return False
    try:
        return mark is None or node_files.holds_name(settings.node_volume(name), "data", mark, levels=3)
    except (OSError, node_files.NodeFileRefused):
        return None


def incarnation(settings: Settings, name: str) -> str | None:
    """The life of the node that runs now, ``<pid>@<start in clock ticks>``; None when no init of it runs."""
    record = read_record(settings, name)
    return f"{record.pid}@{record.start_time}" if record is not None and running(record) else None


def is_alive(settings: Settings, name: str) -> bool:
    """Whether the recorded init of the node runs (it may be suspended)."""
    return running(read_record(settings, name))


def power_off(settings: Settings, name: str, *, lose_volume: bool = False) -> None:
    """Pull the plug: SIGKILL to the init takes the whole node at once; ``lose_volume`` takes its disk too.

    Returns when nothing of the node lives. Neither Terraform nor the record is told, as in life.
    """
    kill_all(settings, name)
    if lose_volume:
        destroy_volume(settings, name)


def suspend(settings: Settings, name: str) -> int:
    """Freeze every process of a node, as a host that falls silent; returns how many there are."""
    return signal_all(settings, name, signal.SIGSTOP, wanted="TtZX")


def resume(settings: Settings, name: str) -> int:
    """Let a suspended node go on; returns how many processes it has."""
    return signal_all(settings, name, signal.SIGCONT, wanted="RSDIZX")


def processes(settings: Settings, name: str) -> list[int]:
    """Host PIDs of all that lives of a node."""
    return list(members(settings, name))


def quarantined(settings: Settings, name: str) -> list[Path]:
    """What is kept of destroyed nodes of this name, newest first."""
    found = settings.quarantine.glob(f"{name}.[0-9]*")
    return sorted((path for path in found if path.is_dir()), reverse=True)


def purge_quarantine(settings: Settings, name: str, keep: int = 0) -> None:
    """Delete all but the ``keep`` newest of what is kept of destroyed nodes of this name, and what is held."""
    for path in quarantined(settings, name)[keep:]:
        if not is_held(path, datetime.now(UTC)):
            shutil.rmtree(path, ignore_errors=True)


def hold_quarantine(settings: Settings, name: str, until: datetime) -> list[Path]:
    """Keep what is in the quarantine of this name now until then (UTC), whatever comes after it; returns what."""
    found = quarantined(settings, name)
    for path in found:
        (path / HELD).write_text(until.isoformat())
    return found


def is_held(path: Path, now: datetime) -> bool:
    """Whether this part of the quarantine has to be kept at ``now`` (UTC)."""
    try:
        return now < datetime.fromisoformat((path / HELD).read_text().strip())
    except (OSError, ValueError):
        return False


def expire_quarantine(settings: Settings, now: datetime) -> list[Path]:
    """Delete what is held no longer; while the disk is short of room, what is held too, oldest first.

    Returns what was deleted. What was never held stays: `purge_quarantine` bounds it.
    """
    held = [path for path in settings.quarantine.glob("*.[0-9]*") if (path / HELD).exists()]
    deleted = []
    for path in sorted(held, key=lambda path: path.name.rpartition(".")[0].rpartition(".")[2]):
        if not is_held(path, now) or shutil.disk_usage(settings.quarantine).free < HELD_ROOM:
            shutil.rmtree(path, ignore_errors=True)
            deleted.append(path)
    return deleted


def _quarantine(settings: Settings, name: str, path: Path, part: str) -> None:
    if not path.exists():
        return
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = settings.quarantine / f"{name}.{stamp}" / part
    target.parent.mkdir(mode=0o700, parents=True)
    path.rename(target)
    purge_quarantine(settings, name, keep=2 * QUARANTINE_KEEP)  # a root and a volume each


def _environment(settings: Settings, name: str, isolation: Isolation) -> dict[str, str]:
    """All that a node inherits: a list of what is allowed, because the caller may hold secrets."""
    root = settings.node_root(name)
    passed = {key: os.environ[key] for key in ("JAVA_HOME", "LANG", "TZ") if key in os.environ}
    return (
        passed
        | inherited()
        | {
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
    )


def _boot(settings: Settings, name: str, isolation: Isolation) -> None:
    root = settings.node_root(name)
    command = [*init_prefix(isolation), sys.executable, "-m", "kintsugi.environments.local.node_init", name]
    node_files.remove_file(root, SOCKET)
    with os.fdopen(node_files.open_to_append(root, INIT_LOG), "ab") as log:
        parent = subprocess.Popen(
            command,
            cwd="/",
            env=_environment(settings, name, isolation),
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
    """The process that ``unshare`` forks: the init, by its PID on the host."""
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while time.monotonic() < deadline and parent.poll() is None:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.005)
    raise StepFailed(
        f"{name}: its init was not started (unshare ended with {parent.returncode}); see log/init.log"
    )


def await_boot(settings: Settings, node: Node, alive: Callable[[], bool]) -> None:
    """Wait until the node's init and its sshd answer; raises StepFailed when it isn't ``alive``, or after 30 s."""
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
    """``create-node``, ``destroy-node``, ``create-volume`` or ``destroy-volume`` of ``$KINTSUGI_NODE``."""
    actions = {
        "create-node": create_node,
        "destroy-node": destroy_node,
        "create-volume": create_volume,
        "destroy-volume": destroy_volume,
    }
    return run_action(actions, arguments)


def run_action(actions: Mapping[str, Action], arguments: list[str]) -> int:
    """Do to ``$KINTSUGI_NODE`` what the one argument names; returns the exit code that Terraform sees."""
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

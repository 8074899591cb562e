"""The program that runs on a host, as root: it makes, ends and looks at the node there. It prints JSON.

The control plane calls it over SSH (`kintsugi.environments.hosts.platform`), and Terraform by ``remote-exec``. A node
on a host is what a local one is, so the work is that of `kintsugi.environments.local.node`. Only what a node boots from
comes from the control plane, because its certificates are signed there: it is the bundle, a tar archive.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kintsugi.core.errors import KintsugiError, NewIncarnation, StepFailed
from kintsugi.core.fleet import REPOSITORY, Node, Role
from kintsugi.core.settings import Settings, load_settings
from kintsugi.environments import node_files
from kintsugi.environments.base import require_incarnation
from kintsugi.environments.local import node as local
from kintsugi.environments.local import node_disk, node_process
from kintsugi.environments.local.node_config import HOST_CERTIFICATE, HOST_KEY
from kintsugi.environments.local.node_isolation import Isolation, choose_isolation

ANOTHER_RUNS = 3  # the exit code when another incarnation runs than the one to end
BUNDLE_BYTES = 16 * 2**20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROGRAMS = ("sshd", "rsyslogd", "java", "unshare", "nsenter")

Options = argparse.Namespace


def read_incarnation(settings: Settings, name: str) -> str | None:
    """Return the incarnation that runs: the boot of the host, and the node's init; None if none runs."""
    init = local.read_incarnation(settings, name)
    return init and f"{_BOOT_ID.read_text().strip()[:8]}:{init}"


def create_node(settings: Settings, name: str, options: Options) -> None:
    """Start the node from its bundle and wait until it answers; a running one is left alone.

    Raises StepFailed if the host gives it no namespaces of its own, or if it isn't up within 30 s.
    """
    if choose_isolation() is not Isolation.ROOT_NAMESPACES:
        raise StepFailed(
            f"{name}: the host gives no mount and PID namespace; see `unshare --mount --pid --fork true`"
        )
    node = Node(name, Role(options.role), options.address, options.port)
    with Path(options.bundle).open("rb") if options.bundle else sys.stdin.buffer as given:
        bundle = given.read(BUNDLE_BYTES)
    local.start_node(settings, node, lambda _: unpack_bundle(settings, name, bundle))


def unpack_bundle(settings: Settings, name: str, bundle: bytes) -> None:
    """Write the files of the bundle into the node's root, whatever a former node left there."""
    root = settings.node_root(name)
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                node_files.make_directory(root, member.name, member.mode)
            else:
                node_files.write_file(root, member.name, content.read(), member.mode)


def power_off(settings: Settings, name: str, options: Options) -> None:
    """End the node, if it is the expected incarnation or none runs. Raises NewIncarnation for another one."""
    require_incarnation(name, options.expected, lambda: read_incarnation(settings, name))
    local.power_off(settings, name)


def destroy_node(settings: Settings, name: str) -> None:
    """End the node and move its root to the host's quarantine; delete what is no longer held there."""
    local.destroy_node(settings, name)
    local.expire_quarantine(settings, datetime.now(UTC))


def discard(settings: Settings, name: str) -> None:
    local.purge_quarantine(settings, name)
    local.expire_quarantine(settings, datetime.now(UTC))


def remove_all(settings: Settings, _: str) -> None:
    """End every node of the host and delete all that it kept here."""
    for name in sorted(node_process.names_on_disk(settings)):
        local.destroy_node(settings, name)
    for part in (settings.state / "nodes", settings.state / "volumes", settings.quarantine):
        shutil.rmtree(part, ignore_errors=True)


def describe(settings: Settings, _: str) -> dict[str, Any]:
    """Return what the host has of what a node needs."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "code": code_digest(),
        "isolated": choose_isolation() is Isolation.ROOT_NAMESPACES,
        "missing": [program for program in _PROGRAMS if shutil.which(program, path=path) is None],
        "jars": sorted(path.name for path in settings.artifacts.glob("*") if path.is_dir()),
    }


def code_digest(repository: Path = REPOSITORY) -> str:
    """Return a digest of the package: the host must run the same code as the control plane."""
    digest = hashlib.sha256()
    top = repository / "plugins"
    for path in sorted((top / "kintsugi").rglob("*.py")):
        digest.update(f"{path.relative_to(top)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def hold(settings: Settings, name: str, options: Options) -> bool:
    return bool(local.hold_quarantine(settings, name, datetime.fromisoformat(options.until)))


def write_certificate(settings: Settings, name: str) -> None:
    node_files.write_file(settings.node_root(name), HOST_CERTIFICATE, sys.stdin.buffer.read(BUNDLE_BYTES))


ACTIONS: Mapping[str, Callable[[Settings, str, Options], Any]] = {
    "create-node": create_node,
    "destroy-node": lambda settings, name, _: destroy_node(settings, name),
    "create-volume": lambda settings, name, _: local.create_volume(settings, name),
    "destroy-volume": lambda settings, name, _: local.destroy_volume(settings, name),
    "incarnation": lambda settings, name, _: read_incarnation(settings, name),
    "processor-use": lambda settings, name, _: node_process.processor_use(settings, name),
    "power-off": power_off,
    "volume-exists": lambda settings, name, _: local.volume_exists(settings, name),
    "volume-formatted": lambda settings, name, options: local.volume_formatted(settings, name, options.mark),
    "discard": lambda settings, name, _: discard(settings, name),
    "hold": hold,
    "suspend": lambda settings, name, _: local.suspend_node(settings, name),
    "resume": lambda settings, name, _: local.resume_node(settings, name),
    "fill-disk": lambda settings, name, _: node_disk.fill_volume(settings, name),
    "free-disk": lambda settings, name, _: node_disk.free_volume(settings, name),
    "host-key": lambda settings, name, _: node_files.read_from(
        settings.node_root(name), HOST_KEY, 0
    ).decode(),
    "write-certificate": lambda settings, name, _: write_certificate(settings, name),
    "describe": lambda settings, name, _: describe(settings, name),
    "remove-all": lambda settings, name, _: remove_all(settings, name),
}


def mount_volume_directory(state: Path, directory: Path) -> None:
    """Show the host's volume directory at the path of the state, so that paths are the same on every machine.

    It is mounted again after a restart of the host. Raises StepFailed if the kernel refuses.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    state.mkdir(mode=0o755, parents=True, exist_ok=True)
    if state.samefile(directory):
        return
    done = subprocess.run(
        ["mount", "--bind", str(directory), str(state)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StepFailed(f"{directory} can't be mounted at {state}: {done.stderr.strip()}")


def main(arguments: list[str]) -> int:
    """Run one action for one node; returns the exit code."""
    parser = argparse.ArgumentParser(prog="host_program")
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("name")
    parser.add_argument("--volume-directory", type=Path)
    for option in ("bundle", "role", "address", "expected", "mark", "until"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--port", type=int)
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        settings.make_state()
        if options.volume_directory:
            mount_volume_directory(settings.state, options.volume_directory)
        result = ACTIONS[options.action](settings, options.name, options)
    except (KintsugiError, OSError) as error:
        print(
            error if isinstance(error, KintsugiError) else f"{type(error).__name__}: {error}", file=sys.stderr
        )
        return ANOTHER_RUNS if isinstance(error, NewIncarnation) else 1
    with suppress(BrokenPipeError):
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

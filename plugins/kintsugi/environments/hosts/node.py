"""What a node on a host boots from: the bundle, which is made on the control plane because its keys are signed there.

Terraform calls this module before it copies the bundle to the host, and removes it afterwards.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from pathlib import Path

from kintsugi.core.files import write_private
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node import run_action
from kintsugi.environments.local.node_config import write_configuration
from kintsugi.environments.local.node_isolation import Isolation
from kintsugi.infra.ssh import ensure_host_login, node_user


def make_bundle(settings: Settings, name: str) -> bytes:
    """Return a tar archive of the files that node ``name`` boots from, below its root; it contains secrets."""
    fleet = settings.known_fleet
    node = fleet.node(name)
    settings.control.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory(dir=settings.control) as directory:
        top = Path(directory, "root")
        write_configuration(
            settings, node, fleet.control_plane, Isolation.ROOT_NAMESPACES, node_user(node), into=top
        )
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(top, arcname=".")
    return packed.getvalue()


def bundle_path(settings: Settings, name: str) -> Path:
    """Return where Terraform finds the bundle of a node, while it makes the node."""
    return settings.control / "hosts" / f"{name}.tar"


def write_bundle(settings: Settings, name: str) -> None:
    """Write the bundle to where Terraform finds it, and make the key by which Terraform logs in."""
    ensure_host_login(settings)
    path = bundle_path(settings, name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, make_bundle(settings, name))


def remove_bundle(settings: Settings, name: str) -> None:
    """Remove the bundle; it is no error if there is none."""
    bundle_path(settings, name).unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Run ``write-bundle`` or ``remove-bundle`` for ``$KINTSUGI_NODE``."""
    return run_action({"write-bundle": write_bundle, "remove-bundle": remove_bundle}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

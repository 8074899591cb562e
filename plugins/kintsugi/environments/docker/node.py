"""Nodes of the docker environment: containers with an address, a root and a volume of their own.

Terraform's docker provider creates and removes container and volume. Its provisioners call this module for the rest:
it writes the files that a node boots from, starts the node, and keeps the root of a destroyed one.
"""

from __future__ import annotations

import sys

from kintsugi.core.settings import Settings
from kintsugi.environments import node_files
from kintsugi.environments.local import node as directories
from kintsugi.environments.local.node_config import write_configuration
from kintsugi.environments.local.node_isolation import Isolation
from kintsugi.infra import docker_engine
from kintsugi.infra.ssh import ssh_user


def create_node(settings: Settings, name: str) -> None:
    """Write the files that node ``name`` boots from, start its container, and wait until its init and its sshd answer.

    A running one is left alone. A root or a volume that is missing is created, empty.
    Raises FleetError for an unknown name, StepFailed if there is no such container or it isn't up within 30 s.
    """
    fleet = settings.fleet
    node = fleet.node(name)
    if not docker_engine.is_running(settings, name):
        directories.create_volume(settings, name)
        write_configuration(settings, node, fleet.control_plane, Isolation.CONTAINER, ssh_user())
        # It is of the last incarnation: an answer there must not count for this one.
        node_files.remove_file(settings.node_root(name), directories.SOCKET)
        docker_engine.start_container(settings, name)
    directories.await_boot(settings, node, lambda: docker_engine.is_running(settings, name))


def destroy_node(settings: Settings, name: str) -> None:
    """End everything of a node and move its root to the quarantine; Terraform then removes the container."""
    docker_engine.kill_container(settings, name)
    directories.keep_root(settings, name)


def main(arguments: list[str]) -> int:
    """Run ``create-node``, ``destroy-node``, ``create-volume`` or ``destroy-volume`` for ``$KINTSUGI_NODE``."""
    actions = {
        "create-node": create_node,
        "destroy-node": destroy_node,
        "create-volume": directories.create_volume,
        "destroy-volume": directories.destroy_volume,
    }
    return directories.run_action(actions, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

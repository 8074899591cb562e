"""Servers of the docker environment: containers with an address, a root and a volume of their own.

Terraform's docker provider creates and removes container and volume. What it calls here, as provisioners, does what
the provider can't: write what the node boots from, start it, and keep what a destroyed one leaves behind.
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
    """Write what the container of node ``name`` boots from, start it and wait until its init and its sshd answer.

    A running one is left alone. What an interrupted run or a lost disk took away, root or volume, is made anew, empty.
    Raises FleetError for an unknown name, StepFailed when there is no such container or it doesn't come up in 30 s.
    """
    fleet = settings.fleet
    node = fleet.node(name)
    if not docker_engine.running(settings, name):
        directories.create_volume(settings, name)
        write_configuration(settings, node, fleet.control_plane, Isolation.CONTAINER, ssh_user())
        # The last life's: an answer there would be taken for this one's.
        node_files.remove_file(settings.node_root(name), directories.SOCKET)
        docker_engine.start(settings, name)
    directories.await_boot(settings, node, lambda: docker_engine.running(settings, name))


def destroy_node(settings: Settings, name: str) -> None:
    """End everything of a node and move its root to the quarantine; Terraform removes the container then."""
    docker_engine.kill(settings, name)
    directories.keep_root(settings, name)


def main(arguments: list[str]) -> int:
    """``create-node``, ``destroy-node``, ``create-volume`` or ``destroy-volume`` of ``$KINTSUGI_NODE``."""
    actions = {
        "create-node": create_node,
        "destroy-node": destroy_node,
        "create-volume": directories.create_volume,
        "destroy-volume": directories.destroy_volume,
    }
    return directories.run_action(actions, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

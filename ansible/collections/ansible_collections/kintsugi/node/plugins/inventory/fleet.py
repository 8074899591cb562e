"""Inventory of a Kintsugi fleet, read from its fleet file."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

if TYPE_CHECKING:
    from ansible.inventory.data import InventoryData
    from ansible.parsing.dataloader import DataLoader

    from kintsugi.core.fleet import Node
    from kintsugi.core.settings import Settings

DOCUMENTATION = """
name: fleet
short_description: The nodes of a Kintsugi fleet
description:
  - Reads the fleet file that Terraform and the DAGs read too (E(KINTSUGI_FLEET), else the
    one of the checkout).
  - Makes a group of each role. Needs the C(kintsugi) package on E(PYTHONPATH).
options:
  plugin:
    description: Must be V(kintsugi.node.fleet).
    required: true
    choices: [kintsugi.node.fleet]
"""


class InventoryModule(BaseInventoryPlugin):
    """Hosts, groups and connection variables of every node."""

    NAME = "kintsugi.node.fleet"

    def verify_file(self, path: str) -> bool:
        """Whether this is the one line that names the plugin."""
        return super().verify_file(path) and path.endswith(("fleet.yml", "fleet.yaml"))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Fill the inventory; a fault of the fleet file becomes a parser error with its text."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            from kintsugi.core.errors import KintsugiError
            from kintsugi.core.settings import load_settings
        except ImportError as error:
            raise AnsibleParserError(f"{error}; add the checkout's plugins/ to PYTHONPATH") from error
        try:
            # The jars are those of the release that this file belongs to, not of the checkout.
            release = Path(path).resolve().parents[2]
            self._fill(dataclasses.replace(load_settings(), repository=release))
        except KintsugiError as error:
            raise AnsibleParserError(str(error)) from error

    def _fill(self, settings: Settings) -> None:
        for name, value in _fleet_variables(settings).items():
            self.inventory.set_variable("all", name, value)
        from kintsugi.core.fleet import Role

        for role in Role:  # also one without nodes: roles look into all groups
            self.inventory.add_group(role.value)
        for node in settings.fleet:
            self.inventory.add_host(node.name, node.role.value)
            for name, value in _node_variables(settings, node).items():
                self.inventory.set_variable(node.name, name, value)


def _fleet_variables(settings: Settings) -> dict[str, object]:
    from kintsugi.core.certificates import has_authority
    from kintsugi.environments.local.node_identity import kafka_cluster_id
    from kintsugi.environments.local.node_isolation import choose_isolation, service_prefix
    from kintsugi.infra.class_data_sharing import archive_options, cassandra_modules, java_home, spark_modules
    from kintsugi.infra.ssh import authorized_keys, ssh_options

    formed = settings.control / "formed"
    return {
        "ansible_ssh_common_args": shlex.join(ssh_options(settings)),
        "ansible_python_interpreter": sys.executable,
        "fleet_name": settings.fleet.name,
        # A host's init always has a PID namespace, whatever this machine allows.
        "service_prefix": [] if settings.fleet.hosts else service_prefix(choose_isolation()),
        "java_home": str(java_home()),
        "cassandra_java_modules": cassandra_modules(),
        "spark_java_modules": spark_modules(),
        "kafka_java_archive": archive_options(settings, "kafka"),
        "cassandra_java_archive": archive_options(settings, "cassandra"),
        "spark_java_archive": archive_options(settings, "spark"),
        "formed_directory": str(formed),
        "kafka_formed": (formed / "kafka").exists(),
        "cassandra_formed": (formed / "cassandra").exists(),
        "kafka_cluster_id": kafka_cluster_id(settings),
        "mutual_tls": has_authority(settings),
        "authorized_keys": authorized_keys(settings),
    }


def _node_variables(settings: Settings, node: Node) -> dict[str, object]:
    from kintsugi.core.cassandra_racks import rack_of
    from kintsugi.core.certificates import has_authority, node_files
    from kintsugi.core.fleet import Role
    from kintsugi.core.settings import CASSANDRA_JMX_SECRET, cassandra_jmx_port
    from kintsugi.core.spark_security import spark_defaults
    from kintsugi.environments.local.node_identity import kafka_directory_id
    from kintsugi.infra.ssh import node_user

    root, role = settings.node_root(node.name), node.role.value.partition("_")[0]
    variables: dict[str, object] = {
        "ansible_host": node.address,
        "ansible_port": node.ssh_port,
        "ansible_user": node_user(node),
        "ansible_remote_tmp": str(root / "tmp"),
        "node_role": role,
        "node_index": node.index,
        "node_root": str(root),
        "node_volume": str(settings.node_volume(node.name)),
        "node_jars": str(settings.jars(role)),
    }
    if node.role in (Role.SPARK_MASTER, Role.SPARK_WORKER):
        variables["spark_defaults"] = spark_defaults(settings)
    if node.role is Role.CASSANDRA:
        variables["cassandra_rack"] = rack_of(settings, node)
        variables["cassandra_jmx_port"] = cassandra_jmx_port(node)
        variables["cassandra_jmx_password"] = settings.secret(CASSANDRA_JMX_SECRET)
    if node.role is Role.KAFKA:
        variables["kafka_directory_id"] = kafka_directory_id(settings, node.name)
        variables["kafka_rack"] = node.zone or ""
    if has_authority(settings):
        variables["tls_files"] = node_files(settings, node)
    return variables

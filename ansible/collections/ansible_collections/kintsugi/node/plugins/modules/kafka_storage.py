"""Ansible module: format a Kafka data directory, once in its life."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: kafka_storage
short_description: Format the data directory of a KRaft node
description:
  - Formats a directory beside the wanted one and renames it, so that a formatted directory
    is always a complete one and is never formatted again.
options:
  directory:
    description: The data directory (C(log.dirs)).
    type: path
    required: true
  properties:
    description: The node's C(server.properties).
    type: path
    required: true
  java:
    description: The command that starts StorageTool, up to and with its class.
    type: list
    elements: str
    required: true
  cluster_id:
    description: The cluster id.
    type: str
    required: true
  initial_controllers:
    description: >-
      The voters of a cluster that is being formed, as C(id@host:port:directory); empty to join a
      cluster that exists.
    type: list
    elements: str
    default: []
author: Kintsugi
"""

EXAMPLES = """
- name: Join
  kintsugi.node.kafka_storage:
    directory: /srv/kafka
    properties: /etc/kafka/server.properties
    java: [java, -cp, /usr/share/java/kafka/*, kafka.tools.StorageTool]
    cluster_id: MkU3OEVBNTcwNTJENDM2Qg
"""

RETURN = """
directory_id:
  description: The id of the data directory.
  type: str
  returned: success
"""


def _directory_id(directory: Path) -> str | None:
    try:
        lines = (directory / "meta.properties").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((line.partition("=")[2] for line in lines if line.startswith("directory.id=")), None)


def _format(module: AnsibleModule, directory: Path) -> None:
    fresh = directory.with_name(f"{directory.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # As a file of its own on the node's volume: the tool formats what log.dirs names.
    properties = fresh.with_suffix(".properties")
    text = Path(module.params["properties"]).read_text()
    kept = [line for line in text.splitlines() if not line.startswith("log.dirs=")]
    properties.write_text("\n".join([*kept, f"log.dirs={fresh}", ""]))
    controllers = module.params["initial_controllers"]
    how = ["--initial-controllers", ",".join(controllers)] if controllers else ["--no-initial-controllers"]
    command = [
        *module.params["java"],
        "format",
        "-t",
        module.params["cluster_id"],
        "-c",
        str(properties),
        *how,
    ]
    code, out, err = module.run_command(command)
    properties.unlink()
    if code != 0:
        lines = (err or out).strip().splitlines() or ["no output"]
        module.fail_json(msg=f"cannot format {directory}: {lines[-1]}", stdout=out, stderr=err)
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()
    fresh.rename(directory)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "properties": {"type": "path", "required": True},
            "java": {"type": "list", "elements": "str", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "initial_controllers": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    directory = Path(module.params["directory"])
    present = _directory_id(directory)
    if present is None and not module.check_mode:
        try:
            _format(module, directory)
        except OSError as error:
            module.fail_json(msg=f"cannot format {directory}: {error}")
    module.exit_json(changed=present is None, directory_id=_directory_id(directory))


if __name__ == "__main__":
    main()

"""Ansible module: preflight, configure and start a service of a node, in one call."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kintsugi.node.plugins.module_utils import (
    files,
    kafka_storage,
    preconditions,
    programs,
)

DOCUMENTATION = """
module: service
short_description: Preflight, configure and start a service of a node
version_added: 0.1.0
author: Kintsugi
description:
  - Checks O(preconditions), makes O(directories), writes O(files) and O(secret_files), formats O(kafka_storage),
    defines and starts O(programs), and writes O(ready_files), in this order. An option that isn't given is skipped.
  - The first step that fails ends the module. The result then says what was done before.
requirements:
  - The Python package supervisor on the node, for O(programs).
notes:
  - A role does all steps in one call, because each further call of a module makes every recovery 0.4 s longer on two
    idle cores, and more under load.
options:
  root:
    description:
      - The node's root directory.
      - The node's init (supervisord) listens at C(run/supervisor.sock) in it and reads C(etc/supervisor.d/*.conf).
      - Required for O(programs).
    type: path
  preconditions:
    description: Preflight. The module changes nothing when one of these isn't met.
    type: dict
    suboptions:
      volume:
        description: The node's volume. Its directory C(data) must exist.
        type: path
        required: true
      artifacts:
        description: The directory with the jars of the service, which must exist.
        type: path
        required: true
      free_mib:
        description: The smallest free space on the volume, in MiB.
        type: int
        required: true
      java_home:
        description: The directory of the Java runtime, with C(bin/java) and C(release) in it.
        type: path
        required: true
      java_version:
        description: The major version that the Java runtime must have.
        type: int
        required: true
  directories:
    description: Directories to make, with their parents, before any file is written.
    type: list
    elements: str
    default: []
  files:
    description:
      - Files to write. A file is written beside its place and renamed, so a reader sees the old one or the new one.
    type: list
    elements: dict
    default: []
    suboptions: &file
      path:
        description: The file's path. Its directory must exist.
        type: path
        required: true
      content:
        description: The file's content.
        type: str
        required: true
      mode:
        description: The file's permission bits, octal, in quotes.
        type: str
        default: "0644"
      once:
        description: Leave a file as it is when it exists already.
        type: bool
        default: false
  secret_files:
    description:
      - Files to write whose content is secret. No result and no log shows it.
      - They are written with O(files).
    type: list
    elements: dict
    default: []
    suboptions: *file
  kafka_storage:
    description:
      - The data directory of a KRaft node, which is formatted when it has never been.
      - It is formatted beside its place and renamed, so a directory that looks formatted is complete.
    type: dict
    suboptions:
      directory:
        description: The data directory (C(log.dirs)).
        type: path
        required: true
      properties:
        description: The node's C(server.properties).
        type: path
        required: true
      java:
        description: The command that starts C(kafka.tools.StorageTool), including the class.
        type: list
        elements: str
        required: true
      cluster_id:
        description: The cluster id.
        type: str
        required: true
      initial_controllers:
        description: >-
          The first voters of a new cluster, each as C(id@host:port:directory). Leave it empty to join a cluster that
          exists.
        type: list
        elements: str
        default: []
      release_version:
        description: The level of features to format for, as C(4.3-IV0). Empty means the newest that this Kafka knows.
        type: str
        default: ""
  programs:
    description:
      - Programs of the node's init. One after another is defined, loaded, started, and waited for until its port
        accepts connections.
      - A program that runs is restarted only with C(restart). A changed definition takes effect at the next restart.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The program's name. Its log is C(<root>/log/<name>.log).
        type: str
        required: true
      command:
        description: The program and its arguments.
        type: list
        elements: str
        required: true
      environment:
        description: Environment variables of the program, added to those of its init.
        type: dict
        default: {}
      stop_seconds:
        description: Seconds that the program has to stop before it is killed.
        type: int
        default: 10
      state:
        description:
          - V(started) starts the program now and at every boot of the node.
          - V(present) defines it and starts it neither now nor at boot.
        type: str
        choices: [present, started]
        default: started
      restart:
        description: Restart the program when it runs.
        type: bool
        default: false
      host:
        description: The address of C(port).
        type: str
      port:
        description: Wait until this port accepts connections.
        type: int
      timeout:
        description: Seconds to wait for C(port).
        type: int
        default: 60
      max_restarts:
        description: The wait for C(port) fails once the init has restarted the program this many times.
        type: int
        default: 3
  ready_files:
    description:
      - Files to write once every program is ready, for the next start to rely on.
      - They are neither written nor compared in check mode.
    type: list
    elements: dict
    default: []
    suboptions: *file
attributes:
  check_mode:
    description: Can run in check mode and return what would change, without changing the node.
    support: full
  diff_mode:
    description: Returns what changed, or would change in check mode, in diff mode.
    support: none
    details: RV(written) and RV(definitions) name what differs.
  platform:
    description: The operating systems that the module runs on.
    support: full
    platforms: posix
seealso:
  - name: supervisord
    description: The init of a node.
    link: https://supervisord.org/
"""

EXAMPLES = """
- name: Write two files
  kintsugi.node.service:
    files:
      - {path: /srv/a, content: "1"}
      - {path: /srv/b, content: "2", mode: "0600"}

- name: Check whether the node can run Kafka
  kintsugi.node.service:
    preconditions:
      volume: /srv/volumes/kafka-1
      artifacts: /var/cache/kintsugi/artifacts/kafka-0123456789ab
      free_mib: 512
      java_home: /usr/lib/jvm/java-17-openjdk-amd64
      java_version: 17

- name: Format the disk and start Kafka
  kintsugi.node.service:
    root: /srv/nodes/kafka-1
    kafka_storage:
      directory: /srv/kafka
      properties: /etc/server.properties
      java: [java, -cp, /usr/share/java/kafka/*, kafka.tools.StorageTool]
      cluster_id: MkU3OEVBNTcwNTJENDM2Qg
    programs:
      - name: kafka
        command: [java, kafka.Kafka, /etc/server.properties]
        host: 127.20.1.1
        port: 9092
"""

RETURN = """
written:
  description: Paths that were written, or would be in check mode. A program's definition is one of them.
  type: list
  elements: str
  returned: always
  sample: [/srv/nodes/kafka-1/etc/supervisor.d/kafka.conf]
definitions:
  description: For each definition that was written, the names of the settings that differed.
  type: dict
  returned: always
  sample: {/srv/nodes/kafka-1/etc/supervisor.d/kafka.conf: [command, stopwaitsecs]}
formatted:
  description: Whether the Kafka disk was blank. It was formatted then, or would be in check mode.
  type: bool
  returned: always
  sample: false
tail:
  description: The last lines of the program's log.
  type: list
  elements: str
  returned: when a program doesn't become ready
  sample: ["FATAL Exiting Kafka due to fatal exception"]
"""

ARGUMENTS = {
    "root": {"type": "path"},
    "preconditions": {"type": "dict", "options": preconditions.SPEC},
    "directories": {"type": "list", "elements": "str", "default": []},
    "files": {"type": "list", "elements": "dict", "default": [], "options": files.SPEC},
    "secret_files": {"type": "list", "elements": "dict", "default": [], "options": files.SECRET_SPEC},
    "kafka_storage": {"type": "dict", "options": kafka_storage.SPEC},
    "programs": {"type": "list", "elements": "dict", "default": [], "options": programs.SPEC},
    "ready_files": {"type": "list", "elements": "dict", "default": [], "options": files.SPEC},
}


class Service:
    """One run of the module. ``result`` grows with each step, so a failure says what was done before."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.result: dict[str, Any] = {"changed": False, "written": [], "definitions": {}, "formatted": False}

    def run(self) -> None:
        """Every step, in order; ends the module at the first that fails. Raises OSError."""
        given, dry = self.module.params, self.module.check_mode
        unmet = preconditions.first_unmet(given["preconditions"]) if given["preconditions"] else None
        if unmet:
            self.fail(unmet)
        made = files.make_directories(given["directories"], dry=dry)
        self.record(bool(made), files.write_files(given["files"] + given["secret_files"], dry=dry))
        if given["kafka_storage"]:
            self.format_disk(given["kafka_storage"])
        for program in given["programs"]:
            self.start_program({**program, "root": given["root"]})
        if not dry:
            self.record(False, files.write_files(given["ready_files"], dry=False))

    def format_disk(self, wanted: dict[str, Any]) -> None:
        """Format the Kafka disk when it is blank."""
        if not kafka_storage.is_blank(wanted):
            return
        self.result["formatted"] = True
        self.record(True, [])
        if self.module.check_mode:
            return
        problem = kafka_storage.format_directory(wanted, self.module.run_command)
        if problem is not None:
            self.fail(problem)

    def start_program(self, program: dict[str, Any]) -> None:
        """Define one program, and start and wait for it where that is wanted."""
        differs = programs.write_definition(program, dry=self.module.check_mode)
        if differs:
            path = str(programs.definition_path(program))
            self.result["definitions"][path] = differs
            self.record(True, [path])
        if self.module.check_mode:
            return
        try:
            self.record(programs.apply_state(program, bool(differs)), [])
            waits = program["port"] and program["state"] == "started"
            problem = programs.wait_for_port(program) if waits else None
        except (OSError, xmlrpc.client.Error) as error:
            self.fail(f"the init of {program['root']} doesn't take {program['name']}: {error}")
        else:
            if problem is not None:
                self.fail(f"{problem}; see {programs.log_path(program)}", tail=programs.log_tail(program))

    def record(self, changed: bool, written: list[str]) -> None:
        """Add a step's outcome to the result."""
        self.result["changed"] |= changed or bool(written)
        self.result["written"] += written

    def fail(self, message: str, **details: Any) -> None:
        """End the module with a sentence."""
        self.module.fail_json(msg=message, **self.result, **details)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    service = Service(module)
    try:
        service.run()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        service.fail(f"cannot write or read {where}{error.strerror or error}")
    module.exit_json(**service.result)


if __name__ == "__main__":
    main()

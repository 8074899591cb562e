"""Ansible module: a service of a node, from what it stands on to its open port, in one call."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kintsugi.node.plugins.module_utils import files, kafka_storage, needs, programs

DOCUMENTATION = """
module: service
short_description: A service of a node
description:
  - Looks whether there is what the service needs, writes its files, formats its disk, and defines and starts its
    programs, in this order; the first thing that can't be done ends it. What isn't named is left out.
  - One module for all, because each call of one costs a node that starts half a second to a second, and as much of a
    processor, twice as long under load; this is on the way of every recovery.
  - Needs the Python package supervisor on the node where it has O(programs).
options:
  root:
    description: The node's root directory; its init listens at C(run/supervisor.sock) in it.
    type: path
  needs:
    description: What has to be there.
    type: dict
    suboptions:
      volume:
        description: The node's volume; services keep their data in C(data) of it.
        type: path
        required: true
      artifacts:
        description: The cached artifacts.
        type: path
        required: true
      free_mib:
        description: How much must be free on the volume, in MiB.
        type: int
        required: true
      java_home:
        description: The Java runtime.
        type: path
        required: true
      java_version:
        description: Its major version.
        type: int
        required: true
  directories:
    description: Directories to make first.
    type: list
    elements: str
    default: []
  files:
    description: Files; each is written by a rename, so that a reader sees the old one or the new one.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where.
        type: path
        required: true
      content:
        description: What.
        type: str
        required: true
      mode:
        description: Permission bits, octal, in quotes.
        type: str
        default: "0644"
      once:
        description: Leave a file alone that exists already.
        type: bool
        default: false
  kafka_storage:
    description:
      - The data directory of a KRaft node. A blank one is formatted beside its place and renamed, so that a formatted
        directory is always a complete one and is never formatted again.
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
          The voters of a cluster that is being formed, as C(id@host:port:directory); empty to join a cluster that
          exists.
        type: list
        elements: str
        default: []
  programs:
    description:
      - Programs of the node's init, one after another. Each is defined, loaded, started if wanted, and waited for until
        its port accepts connections.
      - A running program is only restarted when C(restart) says so; a changed definition waits for that.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The program's name; its log is C(<root>/log/<name>.log).
        type: str
        required: true
      command:
        description: The program and its arguments.
        type: list
        elements: str
        required: true
      environment:
        description: What the program gets beside its init's environment.
        type: dict
        default: {}
      stop_seconds:
        description: How long it may take to end before it is killed.
        type: int
        default: 10
      state:
        description: V(present) defines it without a start, at the node's boot neither.
        type: str
        choices: [present, started]
        default: started
      restart:
        description: Restart it when it runs already.
        type: bool
        default: false
      host:
        description: Where C(port) is.
        type: str
      port:
        description: Wait until this port accepts connections.
        type: int
      timeout:
        description: Seconds to wait for C(port).
        type: int
        default: 60
      most_ends:
        description: How often the program may end while C(port) is waited for, before that is given up.
        type: int
        default: 3
  served:
    description: >-
      Files to write, as O(files), once all programs serve, for the next start to rely on. Not looked at in check mode.
    type: list
    elements: dict
    default: []
author: Kintsugi
"""

EXAMPLES = """
- name: Write two files
  kintsugi.node.service:
    files:
      - {path: /srv/a, content: "1"}
      - {path: /srv/b, content: "2", mode: "0600"}

- name: Start Kafka
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
  description: Paths that were written or, in check mode, would be; a definition of a program is one of them.
  type: list
  returned: always
definitions:
  description: The settings that differed, by name, for each definition that was written.
  type: dict
  returned: always
formatted:
  description: Whether the disk was blank.
  type: bool
  returned: always
"""

ARGUMENTS = {
    "root": {"type": "path"},
    "needs": {"type": "dict", "options": needs.SPEC},
    "directories": {"type": "list", "elements": "str", "default": []},
    "files": {"type": "list", "elements": "dict", "default": [], "options": files.SPEC},
    "kafka_storage": {"type": "dict", "options": kafka_storage.SPEC},
    "programs": {"type": "list", "elements": "dict", "default": [], "options": programs.SPEC},
    "served": {"type": "list", "elements": "dict", "default": [], "options": files.SPEC},
}


class Service:
    """One run of the module; ``answer`` grows as it gets on, so a failure tells what was done before."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.answer: dict[str, Any] = {"changed": False, "written": [], "definitions": {}, "formatted": False}

    def run(self) -> None:
        """Everything, in order; ends the module where something can't be done. Raises OSError."""
        given, dry = self.module.params, self.module.check_mode
        lacking = needs.lacking(given["needs"]) if given["needs"] else None
        if lacking:
            self.fail(lacking)
        made = files.make(given["directories"], dry=dry)
        self.note(bool(made), files.put(given["files"], dry=dry))
        if given["kafka_storage"]:
            self.format(given["kafka_storage"])
        for program in given["programs"]:
            self.start({**program, "root": given["root"]})
        if not dry:
            self.note(False, files.put(given["served"], dry=False))

    def format(self, wanted: dict[str, Any]) -> None:
        """Format the disk if it is blank."""
        if not kafka_storage.is_blank(wanted):
            return
        self.answer["formatted"] = True
        self.note(True, [])
        if self.module.check_mode:
            return
        why = kafka_storage.format_directory(wanted, self.module.run_command)
        if why is not None:
            self.fail(why)

    def start(self, program: dict[str, Any]) -> None:
        """Define one program, and start and wait for it where that is wanted."""
        differs = programs.define(program, dry=self.module.check_mode)
        if differs:
            path = str(programs.definition_path(program))
            self.answer["definitions"][path] = differs
            self.note(True, [path])
        if self.module.check_mode:
            return
        try:
            self.note(programs.apply(program, bool(differs)), [])
            waits = program["port"] and program["state"] == "started"
            why = programs.wait_for_port(program) if waits else None
        except (OSError, xmlrpc.client.Error) as error:
            self.fail(f"the init of {program['root']} doesn't take {program['name']}: {error}")
        else:
            if why is not None:
                self.fail(f"{why}; see {programs.log_path(program)}", tail=programs.last_said(program))

    def note(self, changed: bool, written: list[str]) -> None:
        """Add to the answer."""
        self.answer["changed"] |= changed or bool(written)
        self.answer["written"] += written

    def fail(self, message: str, **also: Any) -> None:
        """End the module with a sentence."""
        self.module.fail_json(msg=message, **self.answer, **also)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    service = Service(module)
    try:
        service.run()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        service.fail(f"cannot write or read {where}{error.strerror or error}")
    module.exit_json(**service.answer)


if __name__ == "__main__":
    main()

"""Ansible module: a program of a node's init (supervisord), defined, started, and waited for."""

from __future__ import annotations

import shlex
import socket
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: program
short_description: A supervised program of a node
description:
  - Writes the program's definition, loads it, starts it if wanted, and waits until a port
    of it accepts connections.
  - A running program is only restarted when O(restart) says so; a changed definition waits for that.
  - Needs the Python package supervisor on the node.
options:
  name:
    description: The program's name; its log is C(<root>/log/<name>.log).
    type: str
    required: true
  root:
    description: The node's root directory.
    type: path
    required: true
  command:
    description: The program and its arguments. Without it the definition is left as it is.
    type: list
    elements: str
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
    choices: [present, started, stopped]
    default: started
  restart:
    description: Restart it when it runs already.
    type: bool
    default: false
  host:
    description: Where O(port) is.
    type: str
  port:
    description: Wait until this port accepts connections.
    type: int
  timeout:
    description: Seconds to wait for O(port).
    type: int
    default: 60
  most_ends:
    description: How often the program may end while O(port) is waited for, before that is given up.
    type: int
    default: 3
author: Kintsugi
"""

EXAMPLES = """
- name: Start Kafka
  kintsugi.node.program:
    name: kafka
    root: /srv/nodes/kafka-1
    command: [java, kafka.Kafka, /etc/server.properties]
    host: 127.20.1.1
    port: 9092
"""

RETURN = """
statename:
  description: What the init says of the program.
  type: str
  returned: success
written:
  description: The path of the definition, when it was written or, in check mode, would be.
  type: list
  returned: always
differs:
  description: The settings of the definition that differed, by name.
  type: list
  returned: always
"""

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "root": {"type": "path", "required": True},
    "command": {"type": "list", "elements": "str"},
    "environment": {"type": "dict", "default": {}},
    "stop_seconds": {"type": "int", "default": 10},
    "state": {"type": "str", "choices": ["present", "started", "stopped"], "default": "started"},
    "restart": {"type": "bool", "default": False},
    "host": {"type": "str"},
    "port": {"type": "int"},
    "timeout": {"type": "int", "default": 60},
    "most_ends": {"type": "int", "default": 3},
}
UP = ("STARTING", "RUNNING", "BACKOFF")


def definition(parameters: dict[str, Any]) -> str:
    """The program's section, with ``%`` doubled because supervisord expands it."""
    environment = ",".join(
        f'{key}="{value}"' for key, value in sorted(parameters["environment"].items())
    ).replace("%", "%%")
    command = shlex.join(parameters["command"]).replace("%", "%%")
    log = f"{parameters['root']}/log/{parameters['name']}.log"
    lines = {
        "command": command,
        "directory": parameters["root"],
        "environment": environment,
        "autostart": str(parameters["state"] == "started").lower(),
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "1000000",
        "stopwaitsecs": str(parameters["stop_seconds"]),
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": log,
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "2",
    }
    body = "\n".join(f"{key} = {value}" for key, value in lines.items() if value)
    return f"[program:{parameters['name']}]\n{body}\n"


class Init:
    """The node's supervisord."""

    def __init__(self, root: str) -> None:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{root}/run/supervisor.sock")
        self.api = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def state(self, name: str) -> str | None:
        """The program's state, None when it isn't loaded."""
        try:
            return str(self.api.getProcessInfo(name)["statename"])
        except xmlrpc.client.Fault:
            return None

    def began(self, name: str) -> int:
        """When the program was last started, in seconds since 1970; 0 for never."""
        return int(self.api.getProcessInfo(name)["start"])

    def load(self, name: str, again: bool) -> None:
        """Load the program's definition; ``again``: also when that stops the running program."""
        self.api.reloadConfig()
        if self.state(name) is None:
            self.api.addProcessGroup(name)
        elif again:
            self.stop(name)
            self.api.removeProcessGroup(name)
            self.api.addProcessGroup(name)

    def start(self, name: str) -> None:
        """Start the program unless it is up."""
        if self.state(name) not in UP:
            self.api.startProcess(name, False)

    def stop(self, name: str) -> None:
        """Stop the program and wait for its end."""
        if self.state(name) in UP:
            self.api.stopProcess(name, True)


def settings_of(text: str) -> dict[str, str]:
    """The settings of a definition by name."""
    pairs = (line.partition(" = ") for line in text.splitlines() if " = " in line)
    return {name: value for name, _, value in pairs}


def definition_path(parameters: dict[str, Any]) -> Path:
    """Where the node's init reads the program's definition."""
    return Path(parameters["root"]) / "etc" / "supervisor.d" / f"{parameters['name']}.conf"


def write_definition(parameters: dict[str, Any], *, dry: bool) -> list[str]:
    """Put the definition down; returns the names of the settings that differed from what was there."""
    if not parameters["command"]:
        return []
    path = definition_path(parameters)
    text = definition(parameters)
    present = path.read_text() if path.exists() else ""
    if present == text:
        return []
    if not dry:
        fresh = path.with_suffix(".fresh")
        fresh.write_text(text)
        fresh.replace(path)
    old, new = settings_of(present), settings_of(text)
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)) or ["form"]


def wait_for_port(parameters: dict[str, Any], init: Init) -> str | None:
    """Wait until the port accepts a connection; None then, else a sentence why it won't.

    A program that its init has to start again and again isn't waited for to the end.
    """
    name, where = parameters["name"], f"{parameters['host']}:{parameters['port']}"
    deadline = time.monotonic() + parameters["timeout"]
    starts: set[int] = set()
    while time.monotonic() < deadline:
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex((parameters["host"], parameters["port"])) == 0:
                return None
        starts.add(init.began(name))
        if len(starts) > parameters["most_ends"]:
            return f"{name} ended {parameters['most_ends']} times instead of listening at {where}"
        time.sleep(0.25)
    return f"{name} doesn't listen at {where} after {parameters['timeout']} s"


def apply(parameters: dict[str, Any], defined: bool) -> bool:
    """Bring the program into the wanted state; True when that took an act."""
    name, init = parameters["name"], Init(parameters["root"])
    before = init.state(name)
    if defined or before is None:
        init.load(name, again=parameters["restart"])
    if parameters["state"] == "stopped":
        init.stop(name)
    elif parameters["state"] == "started":
        if parameters["restart"] and before in UP and not defined:
            init.stop(name)
        init.start(name)
    return defined or parameters["restart"] or init.state(name) != before


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    parameters = module.params
    try:
        differs = write_definition(parameters, dry=module.check_mode)
        answer = {"written": [str(definition_path(parameters))] if differs else [], "differs": differs}
        if module.check_mode:
            module.exit_json(changed=bool(differs), **answer)
        changed = apply(parameters, bool(differs))
    except (OSError, xmlrpc.client.Error) as error:
        module.fail_json(msg=f"the init of {parameters['root']} doesn't take {parameters['name']}: {error}")
    if parameters["port"] and parameters["state"] == "started":
        init = Init(parameters["root"])
        why = wait_for_port(parameters, init)
        if why is not None:
            log = Path(parameters["root"]) / "log" / f"{parameters['name']}.log"
            tail = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
            state = init.state(parameters["name"])
            module.fail_json(msg=f"{why}; see {log}", statename=state, tail=tail)
    state = Init(parameters["root"]).state(parameters["name"])
    module.exit_json(changed=changed, statename=state, **answer)


if __name__ == "__main__":
    main()

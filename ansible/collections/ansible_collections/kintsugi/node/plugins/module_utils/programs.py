"""A program of a node's init (supervisord): defined, started, and waited for."""

from __future__ import annotations

import shlex
import socket
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from ansible_collections.kintsugi.node.plugins.module_utils import files

SPEC = {
    "name": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str", "required": True},
    "environment": {"type": "dict", "default": {}},
    "stop_seconds": {"type": "int", "default": 10},
    "state": {"type": "str", "choices": ["present", "started"], "default": "started"},
    "restart": {"type": "bool", "default": False},
    "host": {"type": "str"},
    "port": {"type": "int"},
    "timeout": {"type": "int", "default": 60},
    "max_restarts": {"type": "int", "default": 3},
}
UP = ("STARTING", "RUNNING", "BACKOFF")


def definition(parameters: dict[str, Any]) -> str:
    """The program's section, with ``%`` doubled because supervisord expands it."""
    environment = ",".join(
        f'{key}="{value}"' for key, value in sorted(parameters["environment"].items())
    ).replace("%", "%%")
    command = shlex.join(parameters["command"]).replace("%", "%%")
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
        "stdout_logfile": str(log_path(parameters)),
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
    """Write the definition, or only compare it with ``dry``; returns the names of the settings that differ."""
    path = definition_path(parameters)
    text = definition(parameters)
    present = path.read_text() if path.exists() else ""
    if present == text:
        return []
    if not dry:
        files.replace_file(path, text, 0o644)
    old, new = settings_of(present), settings_of(text)
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)) or ["form"]


def wait_for_port(parameters: dict[str, Any]) -> str | None:
    """Wait until the port accepts a connection; None then, else a sentence that says why it doesn't.

    The wait ends early once the init has restarted the program ``max_restarts`` times.
    """
    name, where = parameters["name"], f"{parameters['host']}:{parameters['port']}"
    init, deadline = Init(parameters["root"]), time.monotonic() + parameters["timeout"]
    starts: set[int] = set()
    while time.monotonic() < deadline:
        with socket.socket() as client:
            client.settimeout(1)
            if client.connect_ex((parameters["host"], parameters["port"])) == 0:
                return None
        starts.add(init.began(name))
        if len(starts) > parameters["max_restarts"]:
            return f"{name} ended {parameters['max_restarts']} times instead of listening at {where}"
        time.sleep(0.25)
    return f"{name} doesn't listen at {where} after {parameters['timeout']} s"


def apply_state(parameters: dict[str, Any], defined: bool) -> bool:
    """Load, restart or start the program as its parameters say; whether anything was changed.

    ``defined``: its definition was written just now. Raises OSError and xmlrpc.client.Error.
    """
    name, init = parameters["name"], Init(parameters["root"])
    before = init.state(name)
    if defined or before is None:
        init.load(name, again=parameters["restart"])
    if parameters["state"] == "started":
        if parameters["restart"] and before in UP and not defined:
            init.stop(name)
        init.start(name)
    return defined or parameters["restart"] or init.state(name) != before


def log_tail(parameters: dict[str, Any]) -> list[str]:
    """The last 20 lines of the program's log."""
    log = log_path(parameters)
    return log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []


def log_path(parameters: dict[str, Any]) -> Path:
    """Where the node's init keeps what the program prints."""
    return Path(parameters["root"]) / "log" / f"{parameters['name']}.log"

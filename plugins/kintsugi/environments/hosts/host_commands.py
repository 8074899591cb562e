"""Calls of the host program over SSH, from the control plane."""

from __future__ import annotations

import json
import sys
from typing import Any

from kintsugi.core.errors import NewIncarnation, StepFailed
from kintsugi.core.fleet import Host
from kintsugi.core.settings import Settings
from kintsugi.environments.hosts.host_program import ANOTHER_RUNS
from kintsugi.infra import ssh

TIMEOUT_S = 60.0  # of a call: a node that starts may take 30 s
REASON_LENGTH = 600
_NO_CONNECTION = 255  # the exit code of ssh itself


class HostSilent(StepFailed):
    """A host doesn't answer SSH: it may be off, hung, or only out of our reach."""


def program_command(settings: Settings, host: Host, action: str, *arguments: str) -> list[str]:
    """Return the command that runs an action of `host_program` on ``host``; nothing of our environment goes with it."""
    variables = {
        "PYTHONPATH": settings.repository / "plugins",
        "PYTHONDONTWRITEBYTECODE": 1,
        "KINTSUGI_STATE": settings.state,
        "KINTSUGI_CACHE": settings.cache,
        "KINTSUGI_FLEET": settings.fleet_file,
    }
    where = ["--volume-directory", host.volume_directory] if host.volume_directory else []
    program = [sys.executable, "-m", "kintsugi.environments.hosts.host_program", action, *arguments, *where]
    return ["env", *(f"{name}={value}" for name, value in variables.items()), *program]


def call_host(settings: Settings, host: Host, action: str, *arguments: str, given: bytes = b"") -> Any:
    """Run an action of `host_program` on ``host``; returns its result.

    Raises HostSilent if the host can't be reached, NewIncarnation if another incarnation runs, and StepFailed with the
    host's reason if the action fails or gives no answer within 60 s.
    """
    command = program_command(settings, host, action, *arguments)
    done = ssh.run_on_host(settings, host, command, TIMEOUT_S, given)
    reason = (done.stderr or done.stdout).strip()[-REASON_LENGTH:]
    if done.returncode == _NO_CONNECTION:
        raise HostSilent(f"the host {host.name} can't be reached at {host.address}:{host.ssh_port}: {reason}")
    if done.returncode == ANOTHER_RUNS:
        raise NewIncarnation(reason)
    if done.returncode:
        raise StepFailed(f"the host {host.name}: {action} failed: {reason or f'status {done.returncode}'}")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise StepFailed(f"the host {host.name}: {action} printed no JSON: {done.stdout[:100]!r}") from error


def answers(settings: Settings, host: Host) -> bool:
    """Whether the host lets us in."""
    try:
        return ssh.run_on_host(settings, host, ["true"]).returncode == 0
    except StepFailed:
        return False

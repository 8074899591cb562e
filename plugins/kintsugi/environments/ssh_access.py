"""What every platform does through a node's own sshd, wherever the node runs."""

from __future__ import annotations

from collections.abc import Sequence

from kintsugi.core.errors import NewIncarnation, NodeReturned, StepFailed
from kintsugi.core.observation import ServiceProcess
from kintsugi.core.settings import Settings
from kintsugi.infra import ssh
from kintsugi.probes.node_view import ANSWERS, KILLED, kill_command

RUN_TIMEOUT_S = 30.0
REASON_LENGTH = 1000  # of a failed command; the error goes into the journal


class SshAccess:
    """The part of a platform (`kintsugi.environments.base`) that needs nothing but SSH to the node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def run(self, name: str, argv: Sequence[str]) -> str:
        done = ssh.run_over_ssh(self.settings, self.settings.known_fleet.node(name), argv, RUN_TIMEOUT_S)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip()[-REASON_LENGTH:]
            raise StepFailed(f"{name}: {argv[0]} ended with status {done.returncode}: {reason}")
        return done.stdout

    def signal_service(self, name: str, service: str, signal: str) -> None:
        etc = self.settings.node_root(name) / "etc"
        self.run(name, ["supervisorctl", "-c", f"{etc}/supervisord.conf", "signal", signal, service])

    def kill_service(self, name: str, process: ServiceProcess) -> None:
        command = kill_command(self.settings, self.settings.known_fleet.node(name), process)
        found = self.run(name, command).strip()
        if found == ANSWERS:
            raise NodeReturned(f"{name} answers again, so nothing was killed.")
        if found != KILLED:
            raise NewIncarnation(
                f"{name}: process {process} is gone; the guards did not evaluate its successor"
            )

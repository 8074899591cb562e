"""The control plane's supervisord: its configuration, and a client for its unix socket."""

from __future__ import annotations

import os
import subprocess
import sys
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kintsugi.core.errors import PreflightError, StepFailed
from kintsugi.core.processes import carries_marker, wait_until

NOT_RUNNING = 70  # supervisord's fault code for stopProcess on a process that isn't running
ALREADY_STARTED = 60
ENDS_WITHIN_S = 60.0  # a daemon that was told to shut down, with its programs


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process. ``command`` holds no secret: everybody may read it in ``ps``.

    ``stop_signal`` ends it gracefully, within ``stop_seconds``; then it is killed. ``group``: whether its
    whole process group is ended with it.
    """

    name: str
    command: Sequence[str]
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    group: bool = True

    def section(self, log: Path) -> str:
        """This program's section of ``supervisord.conf``."""
        command = " ".join(_quote(word) for word in self.command)
        group = str(self.group).lower()
        return "\n".join(
            (
                f"[program:{self.name}]",
                f"command={command}",
                "autostart=false",  # the order of the first start is ours; afterwards autorestart holds
                "autorestart=true",
                "startsecs=1",
                "startretries=1000000",  # never give up: the machine may be out of memory for a while
                f"stopsignal={self.stop_signal}",
                f"stopwaitsecs={self.stop_seconds}",
                f"stopasgroup={group}",
                f"killasgroup={group}",
                "redirect_stderr=true",
                f"stdout_logfile={log}",
                "stdout_logfile_maxbytes=10MB",
                "stdout_logfile_backups=2",
                "",
            )
        )


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The supervisord that lives in ``directory`` (the control plane's own)."""

    directory: Path

    @property
    def configuration(self) -> Path:
        return self.directory / "supervisord.conf"

    @property
    def socket(self) -> Path:
        return self.directory / "supervisor.sock"

    @property
    def logs(self) -> Path:
        return self.directory / "log"

    def write(self, programs: Sequence[Program]) -> None:
        """Write ``supervisord.conf`` (0600) for these programs."""
        if len(str(self.socket)) > 100:
            raise PreflightError(
                f"the path {self.socket} is too long for a unix socket (over 100 characters): "
                "set KINTSUGI_STATE to a shorter directory"
            )
        self.logs.mkdir(parents=True, exist_ok=True)
        user = "user=root\n" if os.geteuid() == 0 else ""
        head = (
            f"[unix_http_server]\nfile={self.socket}\nchmod=0700\n\n"
            f"[supervisord]\n{user}pidfile={self.directory}/supervisord.pid\n"
            f"logfile={self.logs}/supervisord.log\nlogfile_maxbytes=5MB\nlogfile_backups=1\n"
            f"childlogdir={self.logs}\nminfds=1024\nminprocs=200\n\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\n"
            f"[supervisorctl]\nserverurl=unix://{self.socket}\n\n"
        )
        sections = "\n".join(program.section(self.logs / f"{program.name}.log") for program in programs)
        write_private(self.configuration, head + sections)

    def launch(self, environment: Mapping[str, str]) -> None:
        """Start the daemon with exactly this environment; returns when it answers.

        One that was told to shut down is waited for: it ends its programs first.
        """
        wait_until(lambda: self.pid() is None, ENDS_WITHIN_S)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)]
        done = subprocess.run(
            command,
            env=dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode or not wait_until(self.answers, 10, pause=0.02):
            why = done.stderr.decode(errors="replace").strip().splitlines()
            raise StepFailed(
                f"supervisord of the control plane did not start ({why[-1] if why else 'no answer'}); "
                f"see {self.logs}/supervisord.log, then run `make down` and try again"
            )

    def answers(self) -> bool:
        """Whether the daemon answers on its socket."""
        try:
            self._proxy().supervisor.getState()
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def pid(self) -> int | None:
        """The daemon's pid if it is alive and proven ours."""
        try:
            pid = int((self.directory / "supervisord.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if carries_marker(pid, self.directory) else None

    def states(self) -> dict[str, dict[str, Any]]:
        """``{program: {"state": "RUNNING", "pid": 12, "started": 1700000000, …}}``; empty when it is down."""
        try:
            processes: Any = self._proxy().supervisor.getAllProcessInfo()
        except (OSError, xmlrpc.client.Error):
            return {}
        return {
            info["name"]: {"state": info["statename"], "pid": info["pid"], "started": info["start"]}
            for info in processes
        }

    def add(self, name: str, programs: Sequence[Program]) -> None:
        """Make the running daemon know one more program of ``programs``; the others are left as they run."""
        self.write(programs)
        try:
            self._proxy().supervisor.reloadConfig()
            self._proxy().supervisor.addProcessGroup(name)
        except (OSError, xmlrpc.client.Error) as error:
            raise StepFailed(f"supervisord of the control plane did not take {name}: {error}") from error

    def start(self, *names: str) -> None:
        """Start these programs; those that run already are left alone."""
        self._each("startProcess", ALREADY_STARTED, names)

    def stop(self, *names: str) -> None:
        """Stop these programs at the same time and wait until all are gone."""
        self._each("stopProcess", NOT_RUNNING, names)
        wait_until(lambda: all(self._gone(name) for name in names), 30)

    def _gone(self, name: str) -> bool:
        state = self.states().get(name, {}).get("state", "STOPPED")
        return state in {"STOPPED", "EXITED", "FATAL"}

    def _each(self, method: str, harmless: int, names: Sequence[str]) -> None:
        for name in names:
            try:
                getattr(self._proxy().supervisor, method)(name, False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != harmless:
                    raise StepFailed(
                        f"supervisord refused {method} of {name}: {fault.faultString}; "
                        f"see {self.logs}/{name}.log"
                    ) from fault
            except OSError as error:
                raise StepFailed(
                    f"supervisord of the control plane does not answer at {self.socket}: run `make down`"
                ) from error

    def _proxy(self) -> xmlrpc.client.ServerProxy:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy("http://kintsugi", transport=transport)


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` with mode 0600, atomically: a reader sees the old file or the new one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.replace(path)


def _quote(word: str) -> str:
    # supervisord splits as a shell would, and reads % as the start of an expansion and ; as a comment.
    import shlex

    if not word.isprintable():
        raise PreflightError(f"the command of a program has a line break or a control character: {word!r}")
    return shlex.quote(word).replace("%", "%%")

"""Ansible, as the pipeline calls it: a playbook run to its end, failures in one line.

The playbooks, roles and templates are those of a release where one is given, else those of this checkout.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kintsugi.core.errors import FleetError, StepFailed
from kintsugi.core.settings import inherited

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

_RUNS_KEPT = 20
# What a run gets of our own environment, beside `inherited` and what `_environment` sets. The environment of a task
# holds passwords of Airflow's connections, and ansible_runner writes all that it passes on into a file of the run.
_PASSED_ON = {"HOME", "JAVA_HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"}
_PASSED_ON_PREFIXES = ("ANSIBLE_", "AWX_", "KINTSUGI_", "LC_", "RUNNER_")
_ABANDONED_S = 86_400.0
_UNREACHABLE = "runner_on_unreachable"
_FAILED = ("runner_on_failed", _UNREACHABLE, "runner_item_on_failed")
_DONE = ("runner_on_ok", *_FAILED)


@dataclass
class _Events:
    """What a run says while it goes on."""

    on_progress: Callable[[str], None] | None
    failures: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    differs: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, event: Mapping[str, Any]) -> bool:
        kind, data = event.get("event", ""), event.get("event_data", {})
        if kind in _FAILED and not data.get("ignore_errors"):
            self.failures.append(_sentence(data))
            into = self.unreachable if kind == _UNREACHABLE else self.failed
            into.setdefault(str(data.get("host")), _sentence(data))
        if kind == "runner_on_ok":
            self.differs.setdefault(str(data.get("host")), []).extend(differences(data.get("res") or {}))
        if kind in _DONE and self.on_progress:
            outcome = "failed" if kind in _FAILED else "done"
            self.on_progress(f"{data.get('host')}: {data.get('task')}: {outcome}")
        return False  # don't keep a file of each event


@dataclass(frozen=True, slots=True)
class Checked:
    """What a run in check mode found, by node.

    ``differs``: paths that aren't what the roles say; empty for a node that is as it should be. ``failed``: the first
    task that can't be done, as a sentence. ``unreachable``: who didn't answer SSH.
    """

    differs: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, str]
    unreachable: Mapping[str, str]


class PlaybookSource(Protocol):
    """Where playbooks come from, and the fleet file that belongs to them: a release."""

    @property
    def directory(self) -> Path:
        """It holds ``ansible/``."""

    @property
    def fleet_file(self) -> Path: ...


class Ansible:
    """The playbooks of a release (default: of this checkout), run against one installation's fleet."""

    def __init__(self, settings: Settings, source: PlaybookSource | None = None) -> None:
        self.settings = settings
        self.fleet_file = settings.fleet_file if source is None else source.fleet_file
        self.project = (settings.repository if source is None else source.directory) / "ansible"
        self.scratch = settings.control / "ansible"

    def run(
        self,
        playbook: str,
        *,
        limit: str | None = None,
        extra_vars: Mapping[str, Any] | None = None,
        timeout_s: float,
        on_progress: Callable[[str], None] | None = None,
        give_up: Callable[[], str | None] | None = None,
    ) -> None:
        """Run ``playbooks/<playbook>`` (``site.yml``), on all nodes or on those of ``limit`` (``kafka-2``).

        ``on_progress`` gets a line for each finished task. ``give_up``, quick, is asked about every second; the first
        reason that it gives ends the run. Raises StepFailed naming host, task and message
        of the first failure, or after ``timeout_s`` seconds, or with the reason to give up.
        """
        events = _Events(on_progress)
        given_up: list[str] = []

        def cancelled() -> bool:
            reason = give_up() if give_up and not given_up else None
            given_up.extend([reason] if reason else [])
            return bool(given_up)

        ask = cancelled if give_up else None  # without one, ansible_runner listens for signals by itself
        result, log = self._play(playbook, events, limit, extra_vars, timeout_s, cancelled=ask)
        if result.status == "successful":
            return
        if given_up:
            raise StepFailed(f"ansible {playbook} on {limit or 'all'} was ended: {given_up[0]}")
        if result.status == "timeout":
            raise StepFailed(
                f"ansible {playbook} on {limit or 'all'}: no end after {timeout_s:.0f} s; see {log}"
            )
        reason = events.failures[0] if events.failures else _last_line(result)
        raise StepFailed(f"ansible {playbook} on {limit or 'all'}: {reason}; see {log}")

    def check(
        self,
        nodes: Sequence[str],
        *,
        playbook: str = "site.yml",
        extra_vars: Mapping[str, Any] | None = None,
        timeout_s: float,
    ) -> Checked:
        """Render everything for ``nodes`` and compare it with what is on their disks; nothing is changed.

        A node that fails or doesn't answer is no error here. Raises StepFailed when the run as a whole fails:
        nothing came of it for any node, or no end after ``timeout_s`` seconds.
        """
        events = _Events(None)
        result, log = self._play(playbook, events, ",".join(nodes), extra_vars, timeout_s, "--check")
        answered = events.differs.keys() | events.failed.keys() | events.unreachable.keys()
        if result.status == "timeout" or not answered:
            said = f"no end after {timeout_s:.0f} s" if result.status == "timeout" else _last_line(result)
            raise StepFailed(f"ansible {playbook} in check mode: {said}; see {log}")
        sick = events.failed.keys() | events.unreachable.keys()
        return Checked(
            differs={
                node: tuple(sorted(set(paths))) for node, paths in events.differs.items() if node not in sick
            },
            failed=events.failed,
            unreachable=events.unreachable,
        )

    def _play(
        self,
        playbook: str,
        events: _Events,
        limit: str | None,
        extra_vars: Mapping[str, Any] | None,
        timeout_s: float,
        *flags: str,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[Any, Path]:
        """Run to the end, whatever that is; returns ansible_runner's result and the directory of its log."""
        import ansible_runner

        path = self.project / "playbooks" / playbook
        if not path.is_file():
            raise FleetError(f"there is no playbook {path}")
        directory = self._new_directory()
        (directory / "env").mkdir()
        (directory / "env" / "settings").write_text('{"pexpect_timeout": 1}')  # seconds between two looks
        result = ansible_runner.run(
            private_data_dir=str(directory),
            project_dir=str(self.project),
            playbook=str(path),
            inventory=str(self.project / "inventory" / "fleet.yml"),
            limit=limit,
            cmdline=shlex.join(flags) or None,
            extravars=dict(extra_vars or {}),
            envvars=self._environment(),
            timeout=int(timeout_s),
            event_handler=events,
            cancel_callback=cancelled,
            status_handler=_drop_secrets,
            quiet=True,
            suppress_env_files=True,
        )
        return result, directory / "artifacts"

    def _new_directory(self) -> Path:
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        runs = sorted(self.scratch.glob("run-*"), key=lambda path: path.stat().st_mtime)
        for old in runs[: -_RUNS_KEPT + 1]:
            if _is_over(old):
                shutil.rmtree(old, ignore_errors=True)
        directory = self.scratch / f"run-{uuid.uuid4().hex[:12]}"
        directory.mkdir(mode=0o700)
        return directory

    def _environment(self) -> dict[str, str]:
        settings = self.settings
        modules = str(settings.repository / "plugins")
        paths = [modules, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "ANSIBLE_CONFIG": str(self.project / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.scratch / "home"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.scratch / "ssh"),
            "KINTSUGI_STATE": str(settings.state),
            "KINTSUGI_CACHE": str(settings.cache),
            "KINTSUGI_FLEET": str(self.fleet_file),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(paths),
        }


def _drop_secrets(status: Mapping[str, Any], runner_config: Any) -> None:
    """Called by ansible_runner before it starts: leave only what is allowed in the environment of the run."""
    if status["status"] == "starting":
        allowed = _PASSED_ON | {"PYTHONPATH"} | inherited().keys()
        runner_config.env = {
            name: value
            for name, value in runner_config.env.items()
            if name in allowed or name.startswith(_PASSED_ON_PREFIXES)
        }


def _is_over(directory: Path) -> bool:
    """Whether no run needs the directory any more: it ended, or is a day old, so whoever made it was killed."""
    ended = any(directory.glob("artifacts/*/rc"))
    return ended or time.time() - directory.stat().st_mtime > _ABANDONED_S


def differences(result: Mapping[str, Any]) -> list[str]:
    """The paths that a module's answer says it wrote, or in check mode would write.

    A program that differs in ``autostart`` alone is left out: whether the stream starts at boot follows what the fleet
    is meant to be doing, which no release says.
    """
    settings = result.get("definitions", {})
    return [str(path) for path in result.get("written", ()) if settings.get(path) != ["autostart"]]


def _sentence(data: Mapping[str, Any]) -> str:
    result = data.get("res") or {}
    printed = result.get("stderr") or result.get("stdout")
    # Of a command that ended with an error Ansible itself says only that.
    message = (printed if result.get("rc") else None) or result.get("msg") or printed or "no message"
    tail = [line for line in result.get("tail", []) if line.strip()]
    said = f" (last said: {tail[-1].strip()[:200]})" if tail else ""
    return f"{data.get('host')}, task {data.get('task')!r}: {' '.join(str(message).split())[:600]}{said}"


def _last_line(result: Any) -> str:
    lines = [line for line in result.stdout.read().splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"ansible-playbook ended with {result.rc}"

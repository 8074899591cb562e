"""A client for Ansible: it runs a playbook to its end, and reports a failure in one line.

The playbooks, roles and templates are those of a given release, else those of this checkout.
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
from kintsugi.core.processes import kill_started_with
from kintsugi.core.settings import allowed_variables

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

_RUN = "KINTSUGI_ANSIBLE_RUN"
"""Every process of a run has its directory in this variable."""
_RUNS_KEPT = 20
# What a run gets of our own environment and of `_environment`. The environment of a task holds passwords of Airflow's
# connections, and ansible_runner writes all that it passes on into a file of the run.
_PASSED_ON = {
    "HOME",
    "JAVA_HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
}
_PASSED_ON_PREFIXES = ("ANSIBLE_", "AWX_", "KINTSUGI_", "LC_", "RUNNER_")
_ABANDONED_S = 86_400.0
_UNREACHABLE = "runner_on_unreachable"
_FAILED = ("runner_on_failed", _UNREACHABLE, "runner_item_on_failed")
_DONE = ("runner_on_ok", *_FAILED)


@dataclass
class _Events:
    """The events of a run, as they come."""

    on_progress: Callable[[str], None] | None
    failures: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    differs: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, event: Mapping[str, Any]) -> bool:
        kind, data = event.get("event", ""), event.get("event_data", {})
        if kind in _FAILED and not data.get("ignore_errors"):
            self.failures.append(_failure_text(data))
            into = self.unreachable if kind == _UNREACHABLE else self.failed
            into.setdefault(str(data.get("host")), _failure_text(data))
        if kind == "runner_on_ok":
            self.differs.setdefault(str(data.get("host")), []).extend(written_paths(data.get("res") or {}))
        if kind in _DONE and self.on_progress:
            outcome = "failed" if kind in _FAILED else "done"
            self.on_progress(f"{data.get('host')}: {data.get('task')}: {outcome}")
        return False  # don't keep a file of each event


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a run in check mode, by node.

    ``differs``: the paths that differ from what the roles write; empty if none does. ``failed``: the first task that
    failed, as a sentence. ``unreachable``: the nodes that didn't answer SSH, with a sentence.
    """

    differs: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, str]
    unreachable: Mapping[str, str]


class PlaybookSource(Protocol):
    """The source of playbooks and of their fleet file: a release."""

    @property
    def directory(self) -> Path:
        """Return the directory that contains ``ansible/``."""

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

        ``on_progress`` gets a line for each finished task. ``give_up`` must be quick; it is called about every second,
        and the first reason that it returns ends the run. Raises StepFailed with host, task and message of the first
        failure, or after ``timeout_s`` seconds, or with the reason to give up.
        """
        events = _Events(on_progress)
        reasons: list[str] = []

        def should_cancel() -> bool:
            reason = give_up() if give_up and not reasons else None
            reasons.extend([reason] if reason else [])
            return bool(reasons)

        callback = should_cancel if give_up else None  # without one, ansible_runner handles signals itself
        result, log = self._play(playbook, events, limit, extra_vars, timeout_s, cancel_callback=callback)
        if result.status == "successful":
            return
        if reasons:
            raise StepFailed(f"ansible {playbook} on {limit or 'all'} was ended: {reasons[0]}")
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
        """Render everything for ``nodes`` and compare it with the files on their disks; changes nothing.

        A node that fails or doesn't answer is no error here. Raises StepFailed if the run gave no result for any node,
        or didn't end within ``timeout_s`` seconds.
        """
        events = _Events(None)
        result, log = self._play(playbook, events, ",".join(nodes), extra_vars, timeout_s, "--check")
        results = events.differs.keys() | events.failed.keys() | events.unreachable.keys()
        if result.status == "timeout" or not results:
            reason = f"no end after {timeout_s:.0f} s" if result.status == "timeout" else _last_line(result)
            raise StepFailed(f"ansible {playbook} in check mode: {reason}; see {log}")
        failed_nodes = events.failed.keys() | events.unreachable.keys()
        return Checked(
            differs={
                node: tuple(sorted(set(paths)))
                for node, paths in events.differs.items()
                if node not in failed_nodes
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
        cancel_callback: Callable[[], bool] | None = None,
    ) -> tuple[Any, Path]:
        """Run to the end, also to a failure; returns ansible_runner's result and the directory of its log."""
        import ansible_runner

        path = self.project / "playbooks" / playbook
        if not path.is_file():
            raise FleetError(f"there is no playbook {path}")
        directory = self._new_directory()
        (directory / "env").mkdir()
        (directory / "env" / "settings").write_text(
            '{"pexpect_timeout": 1}'
        )  # seconds between two checks for the end
        result = ansible_runner.run(
            private_data_dir=str(directory),
            project_dir=str(self.project),
            playbook=str(path),
            inventory=str(self.project / "inventory" / "fleet.yml"),
            limit=limit,
            cmdline=shlex.join(flags) or None,
            extravars=dict(extra_vars or {}),
            envvars={**self._environment(), _RUN: str(directory)},
            timeout=int(timeout_s),
            event_handler=events,
            cancel_callback=cancel_callback,
            status_handler=_drop_secrets,
            quiet=True,
            suppress_env_files=True,
        )
        if result.status != "successful":
            # Ansible's workers have sessions of their own, so they outlive a run that ansible_runner has ended.
            kill_started_with(_RUN, str(directory))
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
        runner_config.env = allowed_variables(runner_config.env, _PASSED_ON, _PASSED_ON_PREFIXES)


def _is_over(directory: Path) -> bool:
    """Whether no run needs the directory any more: its run has ended, or it is a day old and its run was killed."""
    has_exit_code = any(directory.glob("artifacts/*/rc"))
    return has_exit_code or time.time() - directory.stat().st_mtime > _ABANDONED_S


def written_paths(result: Mapping[str, Any]) -> list[str]:
    """Return the paths that a module wrote, or would write in check mode, from its result.

    A program that differs in ``autostart`` only is left out: whether the stream starts at boot follows the desired
    state of the fleet, which is not part of a release.
    """
    settings = result.get("definitions", {})
    return [str(path) for path in result.get("written", ()) if settings.get(path) != ["autostart"]]


def _failure_text(data: Mapping[str, Any]) -> str:
    result = data.get("res") or {}
    printed = result.get("stderr") or result.get("stdout")
    # For a command that failed, Ansible's own message says only that it failed.
    message = (printed if result.get("rc") else None) or result.get("msg") or printed or "no message"
    tail = [line for line in result.get("tail", []) if line.strip()]
    last_line = f" (last line: {tail[-1].strip()[:200]})" if tail else ""
    return f"{data.get('host')}, task {data.get('task')!r}: {' '.join(str(message).split())[:600]}{last_line}"


def _last_line(result: Any) -> str:
    lines = [line for line in result.stdout.read().splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"ansible-playbook ended with {result.rc}"

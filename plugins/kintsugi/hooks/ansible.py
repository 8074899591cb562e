"""Ansible, as the pipeline calls it: a playbook of this repository, run to its end, failures in one line."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.errors import FleetError, StepFailed

if TYPE_CHECKING:
    from kintsugi.settings import Settings

_RUNS_KEPT = 20
_FAILED = ("runner_on_failed", "runner_on_unreachable", "runner_item_on_failed")
_DONE = ("runner_on_ok", *_FAILED)


@dataclass
class _Events:
    """What a run says while it goes on."""

    on_progress: Callable[[str], None] | None
    failures: list[str] = field(default_factory=list)

    def __call__(self, event: Mapping[str, Any]) -> bool:
        kind, data = event.get("event", ""), event.get("event_data", {})
        if kind in _FAILED and not data.get("ignore_errors"):
            self.failures.append(_sentence(data))
        if kind in _DONE and self.on_progress:
            outcome = "failed" if kind in _FAILED else "done"
            self.on_progress(f"{data.get('host')}: {data.get('task')}: {outcome}")
        return False  # don't keep a file of each event


class Ansible:
    """The playbooks of this repository, run against one installation's fleet."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.project = settings.repository / "ansible"
        self.scratch = settings.control / "ansible"

    def run(
        self,
        playbook: str,
        *,
        limit: str | None = None,
        extra_vars: Mapping[str, Any] | None = None,
        timeout_s: float,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Run ``playbooks/<playbook>`` (``site.yml``), on all nodes or on those of ``limit`` (``kafka-2``).

        ``on_progress`` gets a line for each finished task. Raises StepFailed naming host, task and message
        of the first failure, or after ``timeout_s`` seconds.
        """
        import ansible_runner

        path = self.project / "playbooks" / playbook
        if not path.is_file():
            raise FleetError(f"there is no playbook {path}")
        events = _Events(on_progress)
        directory = self._new_directory()
        result = ansible_runner.run(
            private_data_dir=str(directory),
            project_dir=str(self.project),
            playbook=str(path),
            inventory=str(self.project / "inventory" / "fleet.yml"),
            limit=limit,
            extravars=dict(extra_vars or {}),
            envvars=self._environment(),
            timeout=int(timeout_s),
            event_handler=events,
            quiet=True,
            suppress_env_files=True,
        )
        if result.status == "successful":
            return
        log = directory / "artifacts"
        if result.status == "timeout":
            raise StepFailed(
                f"ansible {playbook} on {limit or 'all'}: no end after {timeout_s:.0f} s; see {log}"
            )
        reason = events.failures[0] if events.failures else _last_line(result)
        raise StepFailed(f"ansible {playbook} on {limit or 'all'}: {reason}; see {log}")

    def _new_directory(self) -> Path:
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        runs = sorted(self.scratch.glob("run-*"), key=lambda path: path.stat().st_mtime)
        for old in runs[: -_RUNS_KEPT + 1]:
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
            "KINTSUGI_FLEET": str(settings.fleet_file),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(paths),
        }


def _sentence(data: Mapping[str, Any]) -> str:
    result = data.get("res") or {}
    message = result.get("msg") or result.get("stderr") or result.get("stdout") or "no message"
    tail = [line for line in result.get("tail", []) if line.strip()]
    said = f" (last said: {tail[-1].strip()[:200]})" if tail else ""
    return f"{data.get('host')}, task {data.get('task')!r}: {' '.join(str(message).split())[:600]}{said}"


def _last_line(result: Any) -> str:
    lines = [line for line in result.stdout.read().splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"ansible-playbook ended with {result.rc}"

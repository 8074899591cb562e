"""The Ansible hook, on the real ansible-playbook against this machine."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from kintsugi.core.errors import FleetError, StepFailed
from kintsugi.core.settings import Settings, load_settings
from kintsugi.infra.ansible import Ansible

INVENTORY = f"""
all:
  vars: {{ansible_connection: local, ansible_python_interpreter: {sys.executable}}}
  hosts: {{kafka-1: {{}}, kafka-2: {{}}}}
"""
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Say who
      ansible.builtin.assert: {that: inventory_hostname != (refuse | default('')), fail_msg: the disk is full}
    - name: Take one's time
      ansible.builtin.command: sleep {{ seconds | default(0) }}
"""


@pytest.fixture
def ansible(tmp_path: Path) -> Ansible:
    hook = Ansible(Settings(tmp_path / "state", load_settings().cache, load_settings().fleet_file))
    hook.project = tmp_path / "project"
    (hook.project / "playbooks").mkdir(parents=True)
    (hook.project / "inventory").mkdir()
    (hook.project / "inventory" / "fleet.yml").write_text(INVENTORY)
    (hook.project / "playbooks" / "site.yml").write_text(PLAYBOOK)
    return hook


def test_each_finished_task_is_told(ansible: Ansible) -> None:
    told: list[str] = []
    ansible.run("site.yml", limit="kafka-2", timeout_s=60, on_progress=told.append)
    assert told == ["kafka-2: Say who: done", "kafka-2: Take one's time: done"]


def test_a_failure_names_host_task_and_message(ansible: Ansible) -> None:
    with pytest.raises(StepFailed, match=r"kafka-2.*'Say who'.*the disk is full") as caught:
        ansible.run("site.yml", extra_vars={"refuse": "kafka-2"}, timeout_s=60)
    assert "\n" not in str(caught.value)


def test_a_run_neither_gets_nor_keeps_a_secret_of_its_caller(
    ansible: Ansible, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_S3", "planted-secret")
    monkeypatch.setenv("KINTSUGI_INHERIT", "HTTPS_PROXY")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    task = {"name": "Write down the environment", "ansible.builtin.shell": f"env > {tmp_path}/env"}
    play = [{"hosts": "kafka-1", "gather_facts": False, "tasks": [task]}]
    (ansible.project / "playbooks" / "site.yml").write_text(yaml.safe_dump(play))
    ansible.run("site.yml", timeout_s=60)
    files = [path for path in ansible.scratch.rglob("*") if path.is_file()]
    assert any(path.name == "command" for path in files)
    assert [path for path in (*files, tmp_path / "env") if b"planted-secret" in path.read_bytes()] == []
    assert "HTTPS_PROXY=http://proxy.example:3128" in (tmp_path / "env").read_text()


def test_a_run_without_end_is_stopped(ansible: Ansible) -> None:
    with pytest.raises(StepFailed, match=r"\b6 s\b"):
        ansible.run("site.yml", limit="kafka-1", extra_vars={"seconds": 120}, timeout_s=6)
    assert processes_of(ansible) == []


def processes_of(ansible: Ansible) -> list[int]:
    """The processes of its runs; with a connection to a node, each would still change something there."""
    return [pid for pid in psutil.pids() if f"={ansible.scratch}/run-" in environment_of(pid)]


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def test_an_unknown_playbook_is_refused(ansible: Ansible) -> None:
    with pytest.raises(FleetError, match=r"nosuch\.yml"):
        ansible.run("nosuch.yml", timeout_s=60)


def test_a_host_that_is_in_no_fleet_is_no_success(ansible: Ansible) -> None:
    with pytest.raises(StepFailed, match="kafka-9"):
        ansible.run("site.yml", limit="kafka-9", timeout_s=60)


def test_old_runs_are_removed(ansible: Ansible) -> None:
    long_ago = time.time() - 100_000
    for number in range(30):
        directory = ansible.scratch / f"run-{number}"
        (directory / "artifacts" / "x").mkdir(parents=True)
        if number % 2:
            (directory / "artifacts" / "x" / "rc").write_text("0")
        else:  # its process was killed
            os.utime(directory, (long_ago, long_ago))
    ansible.run("site.yml", limit="kafka-1", timeout_s=60)
    assert len(list(ansible.scratch.glob("run-*"))) == 20


def test_the_directory_of_a_run_that_goes_on_stays_whatever_comes_after_it(ansible: Ansible) -> None:
    going = ansible.scratch / "run-going"
    going.mkdir(parents=True)
    hour_ago = time.time() - 3600
    os.utime(going, (hour_ago, hour_ago))
    for number in range(30):
        (ansible.scratch / f"run-{number}" / "artifacts" / "x").mkdir(parents=True)
        (ansible.scratch / f"run-{number}" / "artifacts" / "x" / "rc").write_text("0")
    ansible.run("site.yml", limit="kafka-1", timeout_s=60)
    assert going.exists()


def test_a_run_is_ended_with_the_reason_to_give_up(ansible: Ansible) -> None:
    began = time.monotonic()
    with pytest.raises(StepFailed, match="its listeners are wrong"):
        ansible.run(
            "site.yml", limit="kafka-1", extra_vars={"seconds": 120}, timeout_s=100,
            give_up=lambda: "its listeners are wrong" if time.monotonic() > began + 3 else None,
        )  # fmt: skip
    assert time.monotonic() - began < 60
    assert processes_of(ansible) == []

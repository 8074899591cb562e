from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import ControlPlaneEndpoints, Fleet, Host
from kintsugi.environments.hosts import fence_agent
from kintsugi.environments.hosts.fence_agent import Power

HOST = Host("h1", "10.0.0.11", "ssh-ed25519 AAAA")
AGENT = """
import os, pathlib, sys
state, host, action = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with (state / "calls").open("a") as calls:
    calls.write(f"{host} {action} {'SECRET' in os.environ}\\n")
if (state / "fails").exists():
    sys.exit("no route to the power switch")
if action == "status":
    print((state / "power").read_text())
elif not (state / "ignores").exists():
    (state / "power").write_text(action)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "power").write_text("on")
    program = tmp_path / "agent.py"
    program.write_text(AGENT)
    control = ControlPlaneEndpoints("10.0.0.1", 1, 2, 3, 4)
    agent = (sys.executable, str(program), str(tmp_path))
    return Fleet("test", "hosts", control, {}, hosts={"h1": HOST}, fence_agent=agent)


def calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text().splitlines()


def test_a_host_is_fenced_when_the_agent_confirms_that_it_is_off(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of ours")
    fence_agent.fence_host(fleet, HOST)
    assert calls(tmp_path) == ["h1 off False", "h1 status False"]
    assert fence_agent.read_power(fleet, HOST) is Power.OFF
    fence_agent.switch_on(fleet, HOST)
    assert fence_agent.read_power(fleet, HOST) is Power.ON


def test_a_host_that_is_not_confirmed_off_is_not_fenced(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence_agent, "CONFIRMED_WITHIN_S", 0.0)
    (tmp_path / "ignores").touch()
    with pytest.raises(GuardRefused, match=r"h1 may still run.*still says that the host is on"):
        fence_agent.fence_host(fleet, HOST)


def test_an_agent_that_fails_fences_nothing(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    with pytest.raises(GuardRefused, match=r"may still run.*no route to the power switch"):
        fence_agent.fence_host(fleet, HOST)
    with pytest.raises(StepFailed, match="status 1 at status"):
        fence_agent.read_power(fleet, HOST)


def test_what_is_neither_on_nor_off_is_no_answer(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "power").write_text("Chassis Power is off")
    with pytest.raises(StepFailed, match="not on or off"):
        fence_agent.read_power(fleet, HOST)


def test_an_agent_that_is_missing_or_hangs_is_named(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GuardRefused, match="/nowhere/fence"):
        fence_agent.fence_host(replace(fleet, fence_agent=("/nowhere/fence",)), HOST)
    monkeypatch.setattr(fence_agent, "TIMEOUT_S", 0.05)
    hangs = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(GuardRefused, match="can't do off for h1"):
        fence_agent.fence_host(replace(fleet, fence_agent=hangs), HOST)


def test_without_an_agent_nothing_is_fenced_and_the_message_says_what_to_do(fleet: Fleet) -> None:
    with pytest.raises(GuardRefused, match="by hand, or set fence_agent"):
        fence_agent.fence_host(replace(fleet, fence_agent=()), HOST)
    with pytest.raises(StepFailed, match="no fence_agent"):
        fence_agent.read_power(replace(fleet, fence_agent=()), HOST)

"""The platform `hosts` with a host and an agent that are stood in for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from kintsugi.core.errors import GuardRefused, NewIncarnation, StepFailed
from kintsugi.core.fleet import Fleet, Host
from kintsugi.core.settings import Settings
from kintsugi.environments.base import Platform
from kintsugi.environments.hosts import fence_agent, platform
from kintsugi.environments.hosts.fence_agent import Power
from kintsugi.environments.hosts.host_commands import HostSilent
from kintsugi.environments.hosts.host_program import code_digest
from kintsugi.environments.hosts.platform import HostsPlatform
from kintsugi.environments.platforms import platform_of
from kintsugi.recovery.fact_gathering import is_running
from tests.unit.core.test_fleet_hosts import document

NODE, SILENT = "kafka-1", "silent:h1"


@dataclass
class Site:
    """One host with its node and its power switch. ``power`` is None while the agent can't tell."""

    incarnation: str | None = "b:7@1"
    silent: bool = False
    power: Power | None = Power.ON
    boots: bool = True
    done: list[str] = field(default_factory=list)

    def call(
        self, settings: Settings, host: Host, action: str, name: str, *arguments: str, given: bytes = b""
    ) -> Any:
        if self.silent:
            raise HostSilent(f"the host {host.name} can't be reached")
        if action == "incarnation":
            return self.incarnation
        if (
            action == "power-off"
            and arguments
            and self.incarnation not in (None, arguments[0].partition("=")[2])
        ):
            raise NewIncarnation("another one runs")
        self.done.append(" ".join([action, *arguments]))
        return None

    def read_power(self, fleet: Fleet, host: Host) -> Power:
        if self.power is None:
            raise StepFailed("the agent does not answer")
        return self.power

    def fence(self, fleet: Fleet, host: Host) -> None:
        if not fleet.fence_agent:
            raise GuardRefused("no fence_agent")
        self.done.append(f"fence {host.name}")
        self.power = Power.OFF

    def switch_on(self, fleet: Fleet, host: Host) -> None:
        self.done.append(f"on {host.name}")
        self.power, self.silent = Power.ON, not self.boots


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site()
    monkeypatch.setattr(platform, "call_host", made.call)
    monkeypatch.setattr(platform, "answers", lambda *_: not made.silent)
    monkeypatch.setattr(platform, "BOOT_S", 0.0)
    monkeypatch.setattr(fence_agent, "read_power", made.read_power)
    monkeypatch.setattr(fence_agent, "fence_host", made.fence)
    monkeypatch.setattr(fence_agent, "switch_on", made.switch_on)
    return made


@pytest.fixture
def declare(tmp_path: Path) -> Callable[..., HostsPlatform]:
    def write(**changes: Any) -> HostsPlatform:
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(document(**changes)))
        made = platform_of(Settings(tmp_path / "state", tmp_path / "cache", tmp_path / "fleet.yaml"))
        assert isinstance(made, HostsPlatform)
        return made

    return write


Declare = Callable[..., HostsPlatform]


def test_it_answers_the_whole_protocol() -> None:
    names = [name for name, _ in inspect.getmembers(Platform, inspect.isfunction) if not name.startswith("_")]
    assert names
    for name in names:
        wanted, has = (
            inspect.signature(getattr(Platform, name)),
            inspect.signature(getattr(HostsPlatform, name)),
        )
        assert list(has.parameters) == list(wanted.parameters), name


@pytest.mark.parametrize(
    ("silent", "power", "incarnation", "runs"),
    [
        (False, None, "b:7@1", True),
        (True, Power.ON, SILENT, True),
        (True, Power.OFF, None, False),
        (True, None, StepFailed, None),
    ],
)
def test_a_silent_host_is_what_its_agent_says(
    site: Site, declare: Declare, silent: bool, power: Power | None, incarnation: Any, runs: bool | None
) -> None:
    site.silent, site.power = silent, power
    made = declare()
    if incarnation is StepFailed:
        with pytest.raises(StepFailed):
            made.incarnation(NODE)
    else:
        assert made.incarnation(NODE) == incarnation
    assert is_running(made, NODE) is runs


def test_a_silent_host_without_an_agent_is_a_refusal_and_unknown_to_the_guards(
    site: Site, declare: Declare
) -> None:
    site.silent = True
    made = declare(fence_agent=[])
    assert is_running(made, NODE) is None
    with pytest.raises(GuardRefused, match="fence_agent"):
        made.incarnation(NODE)
    with pytest.raises(GuardRefused, match="fence_agent"):
        made.power_off(NODE, SILENT)
    with pytest.raises(StepFailed, match="switch it on"):
        made.make_room([NODE], set, living=True)
    assert site.done == []


@pytest.mark.parametrize(
    ("silent", "power", "expected", "done"),
    [
        (False, Power.ON, "b:7@1", ["power-off --expected=b:7@1"]),
        (False, Power.ON, None, ["power-off"]),
        (False, Power.ON, "b:6@1", NewIncarnation),
        (False, Power.ON, SILENT, NewIncarnation),  # it answers again
        (True, Power.ON, SILENT, ["fence h1"]),
        (True, Power.ON, None, ["fence h1"]),
        (True, Power.ON, "b:7@1", NewIncarnation),  # it answered when the guards were evaluated
        (True, Power.ON, "", NewIncarnation),  # it was off when the guards were evaluated
        (True, Power.OFF, "", []),
        (True, Power.OFF, "b:7@1", []),
    ],
)
def test_only_what_the_guards_evaluated_is_ended(
    site: Site, declare: Declare, silent: bool, power: Power, expected: str | None, done: Any
) -> None:
    site.silent, site.power = silent, power
    made = declare()
    if done is NewIncarnation:
        with pytest.raises(NewIncarnation):
            made.power_off(NODE, expected)
        assert site.done == []
    else:
        made.power_off(NODE, expected)
        assert site.done == done


def test_the_disk_of_a_silent_host_counts_as_there(site: Site, declare: Declare) -> None:
    site.silent = True
    made = declare()
    assert made.volume_exists(NODE)
    assert made.volume_formatted(NODE, "meta.properties") is None
    assert made.processor_use(NODE) is None


def test_a_host_that_is_off_is_switched_on_before_terraform_comes(site: Site, declare: Declare) -> None:
    made = declare()
    made.make_room([NODE], set, living=True)
    assert site.done == []
    site.silent, site.power = True, Power.OFF
    made.make_room([NODE], set, living=True)
    assert site.done == ["on h1"]


def test_a_host_that_does_not_come_back_is_named(site: Site, declare: Declare) -> None:
    site.silent, site.power, site.boots = True, Power.OFF, False
    with pytest.raises(StepFailed, match="h1 of kafka-1 is switched on, but doesn't answer SSH"):
        declare().make_room([NODE], set, living=True)


def test_an_obstacle_says_which_key_the_host_must_let_in(site: Site, declare: Declare) -> None:
    site.silent = True
    made = declare()
    lines = list(made.obstacles())
    assert len(lines) == 2
    assert all("authorized_keys there: ssh-ed25519 " in line for line in lines)
    site.power = Power.OFF
    assert list(made.obstacles()) == [], "it is switched on"


def test_an_obstacle_names_what_a_host_lacks(
    site: Site, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = declare()
    has = {"code": code_digest(), "isolated": True, "missing": [], "jars": [made.settings.jars("kafka").name]}
    monkeypatch.setattr(platform, "call_host", lambda *_, **__: has)
    assert list(made.obstacles()) == []
    has |= {"code": "older", "isolated": False, "missing": ["java"], "jars": []}
    assert len([line for line in made.obstacles() if "the host h1" in line]) == 4

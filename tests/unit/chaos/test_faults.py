"""Faults of several parts: in which order they are made, and what taking them back does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kintsugi.chaos.registry import FAULTS


def runtime_that_writes_down(said: list[str]) -> Any:
    acts = ("suspend", "resume", "power_off", "lose_volume")
    platform = SimpleNamespace(**{act: lambda name, act=act: said.append(f"{act} {name}") for act in acts})
    return SimpleNamespace(platform=lambda: platform)


def test_a_volume_that_is_lost_silently_goes_after_its_node_was_frozen() -> None:
    said: list[str] = []
    context, fault = runtime_that_writes_down(said), FAULTS["volume_lost_silent"]
    fault.make(context, ["kafka-2"])
    assert said == ["suspend kafka-2", "lose_volume kafka-2"]
    assert fault.take_back is not None
    fault.take_back(context, ["kafka-2"])
    assert said[2:] == ["resume kafka-2"]

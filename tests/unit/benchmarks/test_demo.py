from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks import demo
from kintsugi.core.errors import StepFailed
from kintsugi.core.incident import Incident, Outcome
from tests.unit.core.test_incident import INCIDENT, T0, entry

NODE = INCIDENT.node


class SlowRepair:
    """A store in which the node's incident gets a line every ``every_s`` seconds, and ends with the last of them.

    It is its own clock: only its ``sleep`` lets time pass.
    """

    def __init__(self, lines: int, every_s: float) -> None:
        self.lines, self.every_s, self.passed_s = lines, every_s, 0.0

    def read_incidents(self, *, node: str) -> list[Incident]:
        written = min(self.lines, int(self.passed_s / self.every_s))
        entries = tuple(entry(5 + number, "configure") for number in range(written))
        if written < self.lines:
            return [replace(INCIDENT, entries=entries)]
        end = T0 + timedelta(seconds=self.passed_s)
        return [replace(INCIDENT, entries=entries, closed_at=end, outcome=Outcome.HEALED)]

    def monotonic(self) -> float:
        return self.passed_s

    def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


def follow(repair: SlowRepair, standstill_s: float, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(demo, "time", repair)
    screen = io.StringIO()
    context: Any = SimpleNamespace(store=repair)
    settings: Any = None
    shown = demo.Demo(settings, Console(file=screen), Path("unused"))
    shown.follow_incident(context, NODE, T0, standstill_s)
    return screen.getvalue()


def test_a_repair_that_goes_on_is_followed_to_its_end_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = follow(SlowRepair(lines=20, every_s=200), 300, monkeypatch)
    assert said.count("configure is done") == 20


def test_a_repair_that_stands_still_is_given_up_with_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StepFailed, match=rf"{NODE} .* stood still for 300 s; look at watch_{NODE}"):
        follow(SlowRepair(lines=2, every_s=400), 300, monkeypatch)

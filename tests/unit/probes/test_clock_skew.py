"""When a clock is wrong, and whose."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from kintsugi.core.fleet import Node
from kintsugi.core.settings import Settings
from kintsugi.probes import clock_skew
from tests.installations import installation


@pytest.mark.parametrize(
    ("told", "ahead"),
    [(100.0, 0.0), (103.0, 0.0), (101.5, 0.0), (103.5, 0.5), (99.0, -1.0), (3703.0, 3600.0)],
)
def test_what_the_round_trip_may_explain_is_no_difference(told: float, ahead: float) -> None:
    assert clock_skew.certain_offset(told, before=100.0, after=103.0) == ahead


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (None, ()),
        (0.0, ()),
        (2.0, ()),
        (-2.0, ()),
        (2.1, ("2.1 s", "fast")),
        (-3600.0, ("3,600.0 s", "slow")),
    ],
)
def test_two_seconds_are_tolerated(ahead: float | None, words: tuple[str, ...]) -> None:
    sentence = clock_skew.describe_skew(ahead)
    assert (sentence is not None) == bool(words)
    assert all(word in str(sentence) for word in words)


def test_the_time_of_a_version_1_uuid() -> None:
    before = time.time()
    assert before - 1 < clock_skew.time_of(str(uuid.uuid1())) < time.time() + 1


@pytest.mark.parametrize(
    ("offsets", "ahead"),
    [
        ({1: 0.0, 2: 3600.0, 3: 0.0}, 3600.0),  # it is the node's
        ({1: -50.0, 2: -50.0, 3: -50.0}, 0.0),  # it is ours
        ({1: 10.0, 2: 3600.0, 3: 10.0}, 3590.0),  # the node's most of all, and ours a little
        ({1: None, 2: 3600.0, 3: None}, 3600.0),  # nobody else can be asked
        ({1: 3600.0, 2: 3600.0, 3: 0.0}, 3600.0),  # two of three nodes are fast, and we are not
        ({1: 5.0, 2: 1.5, 3: 5.0}, 1.5),  # the node agrees with us: nobody else is asked
        ({1: 0.0, 2: None, 3: 0.0}, None),
    ],
)
async def test_the_time_is_what_most_agree_on(
    offsets: dict[int, float | None], ahead: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told(settings: Settings, node: Node) -> float | None:
        return offsets[node.index]

    monkeypatch.setattr(clock_skew, "_seconds_ahead_of_us", told)
    settings = installation(tmp_path, "127.34")
    found = await clock_skew.seconds_ahead(settings, settings.fleet.node("kafka-2"))
    assert found == pytest.approx(ahead)

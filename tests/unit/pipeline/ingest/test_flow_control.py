"""When messages are held back; against a gauge and a clock of the test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import pytest

from kintsugi.db.database import StoreUnavailable
from kintsugi.pipeline.ingest.backlog import LAG_MESSAGES, Backlog
from kintsugi.pipeline.ingest.flow_control import POLL_S, RENEW_S, SAY_S, FlowControl
from kintsugi.pipeline.object_listing import S3Object

FILE = S3Object("trades/f", '"e"', 1)


class Scene:
    """A gauge that reads the given lags one after another (the last for ever), a clock that `sleep` moves, a record."""

    def __init__(self, *lags: int | None, away: bool = False) -> None:
        self.lags, self.away = list(lags), away
        self.reads, self.now, self.meanwhile = 0, 0.0, 0
        self.said: list[str] = []
        self.ranges: list[tuple[str, str, str, Mapping[int, tuple[int, int]]]] = []
        self.control = FlowControl("ingest", self, self, self, clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def read(self) -> Backlog | None:
        lag = self.lags[min(self.reads, len(self.lags) - 1)]
        self.reads += 1
        return None if lag is None else Backlog({0: lag}, {0: lag}, None)

    def wait(self, name: str, key: str, why: str, since: datetime) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.said.append(f"{name} {key}")

    def go_on(self, name: str) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.said.append("on")

    def add(self, key: str, etag: str, replay: str, ranges: Mapping[int, tuple[int, int]]) -> None:
        self.ranges.append((key, etag, replay, ranges))

    def look(self) -> None:
        self.meanwhile += 1


def admit(scene: Scene, parts: Iterable[int]) -> None:
    for part in parts:
        scene.control.admit("f", part, scene.look)


def test_nothing_waits_while_the_stream_keeps_up_and_kafka_is_asked_seldom() -> None:
    scene = Scene(0)
    admit(scene, [5_000] * 10)
    assert (scene.now, scene.reads, scene.said) == (0.0, 1, [])
    admit(scene, [5_000])  # the room is used up
    assert scene.reads == 2


def test_a_room_that_was_read_long_ago_is_read_again() -> None:
    scene = Scene(0)
    admit(scene, [1])
    scene.now += RENEW_S + 1
    admit(scene, [1])
    assert scene.reads == 2


def test_it_waits_until_the_lag_leaves_room_and_a_short_wait_is_no_news() -> None:
    scene = Scene(LAG_MESSAGES, LAG_MESSAGES - 1, LAG_MESSAGES - 5_000)
    admit(scene, [5_000])
    assert scene.now == 2 * POLL_S
    assert scene.said == []
    assert scene.meanwhile == 2


def test_a_longer_wait_is_told_and_so_is_its_end() -> None:
    scene = Scene(*[LAG_MESSAGES] * (int(SAY_S / POLL_S) + 1), 0)
    admit(scene, [5_000])
    assert scene.said == ["ingest f", "on"]


def test_it_waits_as_long_as_nobody_can_tell_or_the_stream_stands_and_says_so_again_and_again() -> None:
    scene = Scene(*[None] * 30, *[LAG_MESSAGES] * 60, 0)
    admit(scene, [5_000])
    assert scene.now == 90 * POLL_S
    assert len(scene.said) >= 4
    assert scene.said[-1] == "on"


def test_a_store_that_is_away_changes_nothing_but_that_nobody_is_told() -> None:
    scene = Scene(*[LAG_MESSAGES] * 40, 0, away=True)
    admit(scene, [5_000])
    assert scene.now == 40 * POLL_S


def test_a_part_larger_than_the_limit_goes_when_nothing_waits() -> None:
    scene = Scene(1, 0)
    admit(scene, [LAG_MESSAGES * 2])
    assert scene.now == POLL_S


def test_what_is_admitted_counts_against_the_room_until_it_is_read_again() -> None:
    scene = Scene(LAG_MESSAGES - 8_000, LAG_MESSAGES - 3_000, 0)
    admit(scene, [5_000, 5_000])
    assert scene.reads == 3


@pytest.mark.parametrize("ranges", [{}, {0: (1, 5)}])
def test_the_place_of_a_files_messages_is_noted(ranges: dict[int, tuple[int, int]]) -> None:
    scene = Scene(0)
    scene.control.note_sent(FILE, "r", ranges)
    assert scene.ranges == ([(FILE.key, FILE.etag, "r", ranges)] if ranges else [])


def test_what_kafka_has_not_acknowledged_is_flushed_before_each_reading_of_the_backlog() -> None:
    """Else Kafka doesn't count it: one ingest went 5,000 messages beyond the limit."""
    scene = Scene(0)
    reads_at_flush: list[int] = []
    for _ in range(LAG_MESSAGES // 5_000 + 1):
        scene.control.admit("f", 5_000, scene.look, lambda: reads_at_flush.append(scene.reads))
    assert (reads_at_flush, scene.reads) == ([0, 1], 2)

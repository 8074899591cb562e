"""When the watch of the flow starts the streaming driver again, and when it doesn't."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.db.flags import Desired
from kintsugi.operations import stream_driver


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


class Doors:
    """A store with what is wanted and which repairs are open; the driver's init, that notes what it is told."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, wanted: str | None, uptime: str, **last_words: float
    ) -> None:
        self.told: list[str] = []
        self.store = self
        self._wanted = wanted
        self._status = f"stream-trades RUNNING pid 7, uptime {uptime}"
        self._incidents = [
            SimpleNamespace(node=node.replace("_", "-"), last_word=ago(seconds))
            for node, seconds in last_words.items()
        ]
        monkeypatch.setattr(stream_driver, "control_driver", self._control)

    def read_desired(self, key: str) -> Desired | None:
        return None if self._wanted is None else Desired(key, self._wanted, 1)

    def read_incidents(self, limit: int | None, *, open_only: bool) -> list[Any]:
        assert (limit, open_only) == (None, True)
        return self._incidents

    def _control(self, context: Any, verb: str) -> str:
        if verb != "status":
            self.told.append(verb)
        return self._status


@pytest.mark.parametrize(
    ("wanted", "uptime", "repairs", "told", "said"),
    [
        ("running", "0:10:00", {}, ["stop", "start"], ""),
        (None, "0:10:00", {}, [], "the stream is not submitted"),
        ("running", "0:02:59", {}, [], "is still warming up"),
        (
            "running",
            "0:10:00",
            {"kafka_2": 20, "cassandra_1": 5},
            [],
            "cassandra-1, kafka-2 is being recovered",
        ),
        (
            "running",
            "0:10:00",
            {"kafka_2": 600},
            ["stop", "start"],
            "",
        ),  # it waits for a person, or nobody repairs it
    ],
)
def test_the_driver_is_started_again_unless_something_explains_the_standstill(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str | None,
    uptime: str,
    repairs: dict[str, float],
    told: list[str],
    said: str,
) -> None:
    context: Any = Doors(monkeypatch, wanted, uptime, **repairs)
    assert said in stream_driver.restart_if_desired(context)
    assert context.told == told

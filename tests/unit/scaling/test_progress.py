"""What the page says of a change of the fleet."""

from __future__ import annotations

from typing import Any

import pytest

from kintsugi.scaling.progress import describe_progress

RUN: dict[str, Any] = {"run": "scale_fleet/1", "plan": "add kafka-4", "text": None, "entries": []}


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (None, []),
        ({**RUN, "state": "done"}, []),
        ({**RUN, "state": "refused"}, []),
        ({**RUN, "state": "running"}, ["add kafka-4"]),
        (
            {**RUN, "state": "running", "entries": [{"at": "", "message": "it joins"}]},
            ["kafka-4", "it joins"],
        ),
        ({**RUN, "state": "failed", "text": "left to do: kafka-4"}, ["left to do: kafka-4"]),
    ],
)
def test_what_runs_or_is_not_finished_is_told(progress: Any, words: list[str]) -> None:
    line = describe_progress(progress)
    assert bool(line) is bool(words)
    assert all(word in line for word in words)

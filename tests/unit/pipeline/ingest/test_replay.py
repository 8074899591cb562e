from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest.replay import Pacer, Schedule, parse_day_or_month, select_files
from kintsugi.pipeline.object_listing import NAME, S3Object


def file(name: str) -> S3Object:
    return S3Object(f"trades/{name}", '"e"', 1)


FILES = [
    file(f"2024-10-08/{NAME}2024-10-08_001.csv"), file(f"2024-10-08/{NAME}2024-10-08_002.csv.gz"),
    file(f"2024-10-09/{NAME}2024-10-09.csv.zip"), file(f"2024-10/{NAME}2024-10.csv"),
    file(f"canary/{NAME}2024-10-08_x.csv"),
]  # fmt: skip


def test_a_day_a_month_keys_or_everything_can_be_chosen() -> None:
    assert select_files(FILES, day="2024-10-08") == FILES[:2]
    assert select_files(FILES, day="2024-10-09") == FILES[2:3]
    assert select_files(FILES, day="2024-10") == sorted(FILES[:4], key=lambda item: item.key)
    assert select_files([*FILES, file(f"x/{NAME}2024-11-01.csv")], day="2024-11")[0].key.endswith(
        "2024-11-01.csv"
    )
    assert select_files(FILES, keys=[FILES[2].key, FILES[0].key]) == [FILES[0], FILES[2]]
    assert select_files(FILES, everything=True) == sorted(FILES[:4], key=lambda item: item.key)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({}, "choose one"), ({"day": "2024-10-08", "everything": True}, "choose one"),
        ({"keys": ["trades/x"]}, "no trade file 'trades/x'"), ({"day": "2024-11-01"}, "no trade file of 2024-11-01"),
    ],
)  # fmt: skip
def test_a_choice_that_names_nothing_is_refused(choice: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        select_files(FILES, **choice)  # type: ignore[arg-type]


def test_what_a_form_adds_to_a_day_or_month_is_left_out() -> None:
    assert [parse_day_or_month(text) for text in ("2024-10-08\n", " 2024-10\r\n", "", "\n")] == [
        "2024-10-08",
        "2024-10",
        "",
        "",
    ]


@pytest.mark.parametrize("text", ["2024", "2024-13", "2024-10-8", "08.10.2024", "2024-10-08 x"])
def test_what_is_no_day_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="2024-10"):
        parse_day_or_month(text)


@pytest.mark.parametrize(
    ("schedule", "at", "due"),
    [
        (Schedule(), 500, 0), (Schedule(speed=1), 500, 500), (Schedule(speed=10), 500, 50),
        # ten times, and from the 20th to the 25th second a hundred times, real time
        (Schedule(10, 10, 20, 5), 200, 20), (Schedule(10, 10, 20, 5), 450, 22.5), (Schedule(10, 10, 20, 5), 700, 25),
        (Schedule(10, 10, 20, 5), 800, 35), (Schedule(1, 4, 0, 60), 240, 60), (Schedule(2, 0.5, 10, 10), 30, 20),
    ],
)  # fmt: skip
def test_a_trade_is_due_by_its_own_time(schedule: Schedule, at: float, due: float) -> None:
    assert schedule.due_s(at) == pytest.approx(due)


@given(
    st.tuples(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0, 100), st.floats(0, 100)),
    st.floats(0, 10**6), st.floats(0, 10**4),
)  # fmt: skip
def test_a_later_trade_is_never_due_earlier(
    values: tuple[float, float, float, float], at: float, later: float
) -> None:
    schedule = Schedule(*values)
    assert schedule.due_s(at + later) >= schedule.due_s(at) - 1e-6


@pytest.mark.parametrize("values", [(-1,), (1, 0), (1, 1, -1), (1, 1, 0, -1), (0, 5, 0, 10)])
def test_a_senseless_schedule_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(InputError):
        Schedule(*values)


def test_trades_are_held_back_until_they_are_due_and_a_slow_sender_catches_up() -> None:
    now = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pacer(Schedule(speed=2), lambda: now[0], sleep)
    for ts in (50_000, 52_000, 51_000, 52_000):
        pace(ts)
    assert slept == [1.0]
    now[0] += 5  # Kafka was slow
    pace(56_000)
    pace(70_000)
    assert slept == [1.0, pytest.approx(4.0)]

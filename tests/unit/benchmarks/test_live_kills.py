"""Which deaths are those of live nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.live_kills import (
    EXITED,
    SILENCE_S,
    Announcement,
    Death,
    Recording,
    find_live_kills,
    find_service_end,
    find_unexplained_deaths,
)

T0 = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def death(
    *,
    at: float = 100,
    heard: float | None = 99,
    started: float = -500,
    what: str = "service",
    node: str = "kafka-1",
    end: str = "stopped (terminated by SIGKILL)",
) -> Death:
    return Death(
        node, what, 4711, after(started), after(at), None if heard is None else after(heard), "kafka-2", end
    )


def test_a_node_that_somebody_has_just_heard_was_killed_alive() -> None:
    assert find_live_kills([death()], []) == [death()]
    assert find_live_kills([death(at=100, heard=100 - SILENCE_S)], []) != []


@pytest.mark.parametrize("heard", [None, 100 - SILENCE_S - 0.1])
def test_a_silent_node_may_be_killed(heard: float | None) -> None:
    assert find_live_kills([death(heard=heard)], []) == []
    assert find_unexplained_deaths([death(heard=heard)], []) != [], "but it was killed"


def test_what_ended_by_itself_was_not_killed() -> None:
    assert find_live_kills([death(end=EXITED)], []) == []
    assert find_unexplained_deaths([death(end=EXITED)], []) == []


def test_the_experiment_explains_the_death_of_what_ran_when_it_struck_and_of_nothing_else() -> None:
    struck = [Announcement("kafka-1", after(99))]
    assert find_live_kills([death()], struck) == []
    assert find_live_kills([death(node="kafka-2")], struck) != [], "another node"
    assert find_live_kills([death(started=99.5)], struck) != [], "its successor"
    assert find_live_kills([death(at=140, heard=139)], struck) != [], "much later"
    assert find_live_kills([death(at=98, heard=97)], struck) != [], "before"


def test_by_design_a_service_may_be_ended_that_answers_and_its_host_may_not() -> None:
    assert find_live_kills([death()], [], allowed=["kafka-1"]) == []
    assert find_live_kills([death(what="init")], [], allowed=["kafka-1"]) != []
    assert find_live_kills([death()], [], allowed=["kafka-2"]) != []


def test_a_node_that_dies_with_its_service_is_one_kill() -> None:
    both = [death(at=100, what="init"), death(at=100.2), death(at=100.2, node="kafka-3")]
    assert [one.node for one in find_live_kills(both, [])] == ["kafka-1", "kafka-3"]
    assert len(find_live_kills([death(at=100), death(at=130, heard=129)], [])) == 2


@pytest.mark.parametrize(
    ("log", "end"),
    [
        ("INFO exited: kafka (exit status 1; not expected)\n", EXITED),
        (
            "INFO exited: kafka (terminated by SIGKILL; not expected)\n",
            "exited (terminated by SIGKILL; not expected)",
        ),
        ("INFO stopped: kafka (exit status 143)\n", "stopped (exit status 143)"),
        ("INFO exited: sshd (exit status 1; not expected)\n", "unknown"),
        ("", "unknown"),
        (
            "INFO exited: kafka (exit status 1; not expected)\nINFO stopped: kafka (terminated by SIGKILL)\n",
            "stopped (terminated by SIGKILL)",
        ),
    ],
)
def test_how_a_service_ended_is_in_its_inits_own_words(log: str, end: str) -> None:
    assert find_service_end(log, "kafka") == end


def test_a_death_is_written_and_read_again() -> None:
    for one in (death(), death(heard=None)):
        assert Death.from_json(one.to_json()) == one


def test_a_recording_says_for_how_long_nobody_looked() -> None:
    lines = [{"kind": "look", "at": after(seconds).isoformat()} for seconds in (-5, 1, 2, 9, 10, 40)]
    lines += [death(at=5).to_json(), death(at=20).to_json()]
    seen = Recording.from_lines(lines, T0, after(12))
    assert seen.blind_s == 7
    assert [one.at for one in seen.deaths] == [after(5)]
    assert Recording.from_lines([], T0, after(12)).blind_s == 12

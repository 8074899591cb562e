"""When Cassandra's ranges are compared, and what goes on record of it."""

from __future__ import annotations

import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.airflow_ext import recovery_task_group
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role, load_fleet
from kintsugi.operations import cassandra_repair
from kintsugi.operations.cassandra_repair import Away, differing_ranges, repair_ranges, repair_tonight
from kintsugi.recovery import actions

SAID = [  # as Cassandra 5.0.8 writes it of two others, and of one that only receives
    "2026-08-01T02:15:00Z INFO  [RepairJobTask:4] SyncTask - [repair #f5] Endpoints 127.20.2.2/127.20.2.2:7000 and"
    " 127.20.2.1/127.20.2.1:7000 have 3 range(s) out of sync for trade",
    "2026-08-01T02:15:01Z INFO  [RepairJobTask:2] SyncTask - [repair #f5] Endpoint 127.20.2.1/127.20.2.1:7000 has"
    " 12 range(s) out of sync with 127.20.2.3/127.20.2.3:7000 for trade",
]


class Doors:
    """A fleet whose Ansible fails where ``failure`` says so; ``record``: what went into the store."""

    def __init__(self) -> None:
        self.fleet, self.store = load_fleet(), self
        self.failure: str | None = None
        self.silent: list[str] = []
        self.mute = False
        self.opened: list[Any] = []
        self.rolled: list[Any] = []
        self.ran: list[tuple[str, bool]] = []
        self.record: list[tuple[Any, ...]] = []

    def ansible(self) -> Any:
        return self

    def run(
        self, playbook: str, *, limit: str, extra_vars: dict[str, bool], timeout_s: float, give_up: Any
    ) -> None:
        assert (playbook, give_up()) == ("rejoin_cassandra.yml", None)
        assert timeout_s >= 3600, "it takes as long as there is data"
        self.ran.append((limit, extra_vars["cassandra_repair_primary"]))
        if self.failure:
            raise StepFailed(self.failure)

    def said(self, name: str, words: str, since: datetime) -> list[str]:
        assert all(words in line for line in SAID)
        if self.mute:
            raise StepFailed("no ssh")
        return SAID

    def begin_comparison(self, node: str, by: str) -> int:
        self.record.append((node, by))
        return 5

    def end_comparison(self, number: int, differed: int | None = None, *, failure: str | None = None) -> None:
        self.record.append((number, differed, failure))

    def read_incidents(self, limit: int | None = 50, *, open_only: bool) -> list[Any]:
        assert (limit, open_only) == (None, True)
        return self.opened

    def read_deployments(self) -> list[Any]:
        return self.rolled


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Doors()
    monkeypatch.setattr(cassandra_repair, "_silent_nodes", lambda fleet: made.silent)
    return made


def test_how_many_ranges_differed_is_what_cassandra_says() -> None:
    assert differing_ranges(SAID) == 15
    assert differing_ranges(["2026-08-01T02:15:00Z INFO SyncTask - are consistent", ""]) == 0


@pytest.mark.parametrize("primary", [True, False])
def test_a_comparison_is_on_record_from_its_begin_to_its_end(context: Any, primary: bool) -> None:
    node = context.fleet.node("cassandra-2")
    said = repair_ranges(context, node, "night/1", primary=primary)
    assert "cassandra-2" in said
    assert said.endswith("ranges that were out of sync: 15")
    assert context.ran == [("cassandra-2", primary)]
    assert context.record == [("cassandra-2", "night/1"), (5, 15, None)]


def test_one_whose_count_is_unknown_was_carried_through_all_the_same(context: Any) -> None:
    context.mute = True
    assert "the number of ranges out of sync is unknown" in repair_tonight(context, "cassandra-2", "night/1")
    assert context.record[-1] == (5, None, None)


def test_the_others_are_waited_for_and_not_for_ever(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(
        cassandra_repair, "_silent_nodes", lambda fleet: ["cassandra-1"] if now[0] < 300 else []
    )
    cassandra_repair.await_replicas(context.fleet)
    assert now[0] == 300
    monkeypatch.setattr(cassandra_repair, "_silent_nodes", lambda fleet: ["cassandra-1"])
    with pytest.raises(StepFailed, match="without cassandra-1"):
        cassandra_repair.await_replicas(context.fleet)
    assert 300 + cassandra_repair.REPLICAS_S <= now[0] < 310 + cassandra_repair.REPLICAS_S


def test_one_that_fails_is_on_record_with_the_reason(context: Any) -> None:
    context.failure = "a neighbour died"
    with pytest.raises(StepFailed, match="a neighbour died"):
        repair_tonight(context, "cassandra-2", "night/1")
    assert context.record == [("cassandra-2", "night/1"), (5, None, "a neighbour died")]


def test_at_night_each_node_compares_what_is_its_own_first(context: Any) -> None:
    context.opened = [
        SimpleNamespace(role=Role.KAFKA, node="kafka-1", id="i-2")
    ]  # doesn't matter to Cassandra
    context.rolled = [SimpleNamespace(state="held", id="d-1")]
    repair_tonight(context, "cassandra-3", "night/1")
    assert context.ran == [("cassandra-3", True)]


@pytest.mark.parametrize(
    ("opened", "rolled", "why"),
    [
        (
            [SimpleNamespace(role=Role.CASSANDRA, node="cassandra-1", id="i-1")],
            [],
            "cassandra-1 is being recovered",
        ),
        ([], [SimpleNamespace(state="running", id="d-2")], "a release is being rolled out"),
    ],
)
def test_a_repair_or_a_roll_out_puts_it_off(context: Any, opened: Any, rolled: Any, why: str) -> None:
    context.opened, context.rolled = opened, rolled
    with pytest.raises(StepFailed, match=f"cassandra-3 is postponed: {why}"):
        repair_tonight(context, "cassandra-3", "night/1")
    assert context.ran == context.record == []


def test_a_replica_that_does_not_answer_puts_it_off(context: Any) -> None:
    context.silent = ["cassandra-1"]
    with pytest.raises(StepFailed, match="cassandra-3 is postponed: no answer from cassandra-1"):
        repair_tonight(context, "cassandra-3", "night/1")
    assert context.ran == context.record == []


def test_a_replica_that_is_away_for_good_ends_it_and_a_pause_does_not() -> None:
    away = Away({"cassandra-1": 0.0, "cassandra-2": 0.0})
    both = ["cassandra-1", "cassandra-2"]
    looks = [
        (both, 5.0),
        (both[:1], 10.0),
        (both[:1], 34.0),
        (both, 35.0),
        (both[:1], 64.0),
        (both[:1], 65.5),
    ]
    said = [away.observe(answering, now) for answering, now in looks]
    assert said[:-1] == [None] * 5
    assert said[-1] is not None
    assert said[-1].startswith("cassandra-2 hasn't answered for 30 s")


def test_the_step_that_compares_is_given_the_time_for_it() -> None:
    waits = max(actions.PATIENCE_S.values()) + cassandra_repair.COMPARISON_S
    assert recovery_task_group.REJOIN_LIMIT.total_seconds() > waits

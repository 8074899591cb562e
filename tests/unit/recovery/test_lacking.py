"""When a Cassandra node's ranges are compared with its replicas, and when that would be time for nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.fleet import Role
from kintsugi.incident import Action
from kintsugi.recovery.case import Case
from kintsugi.recovery.lacking import LEFT_OUT, may_lack_rows, newest, record_left_out

CASE = Case("i-1", "cassandra-1", "watch_cassandra-1/run-7")
MINUTE = timedelta(minutes=1)


class Doors:
    """One incident of cassandra-1, others beside it, and the node's log; ``expected``: repairs put on record."""

    def __init__(
        self,
        *,
        attempts: list[Action] | None = None,
        away: timedelta = MINUTE,
        pending: tuple[str, ...] = (),
        others: tuple[tuple[str, Role, float], ...] = (),
        log: str = "",
    ) -> None:
        failed = datetime.now(UTC) - away
        self.log, self.pending, self.expected, self.said = log, list(pending), 0, [""]
        self.own = SimpleNamespace(
            node="cassandra-1",
            role=Role.CASSANDRA,
            first_failed_at=failed,
            attempts=lambda: attempts or [Action.RESTART],
        )
        self.others = [
            SimpleNamespace(node=node, role=role, first_failed_at=failed + timedelta(seconds=later))
            for node, role, later in others
        ]
        self.store, self.settings = self, SimpleNamespace(node_root=lambda name: Path("/nodes") / name)
        self.token, self.note = 7, self.said.append

    def incident(self, _: str) -> Any:
        return self.own

    def incidents(self) -> list[Any]:
        return [*self.others, self.own]

    def pending_repairs(self) -> list[str]:
        return self.pending

    def expect_repair(self, incident: str, token: int) -> None:
        assert (incident, token) == ("i-1", 7)
        self.expected += 1
        self.pending.append("cassandra-1")

    def platform(self) -> Any:
        return SimpleNamespace(run=self.run)

    def run(self, node: str, argv: list[str]) -> str:
        assert (node, argv[-1]) == ("cassandra-1", "/nodes/cassandra-1/log/cassandra.log")
        return "".join(line for line in self.log.splitlines(keepends=True) if LEFT_OUT in line)

    def lacks(self) -> bool:
        return may_lack_rows(self, CASE, self)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lacks", "doors"),
    [
        (False, Doors()),
        (False, Doors(pending=("cassandra-3",))),  # another's
        (True, Doors(attempts=[Action.RESTART, Action.REBUILD_NODE])),
        (True, Doors(attempts=[Action.REBUILD, Action.RESTART])),
        (True, Doors(away=timedelta(hours=4))),  # its peers have dropped their hints
        (True, Doors(pending=("cassandra-1",))),  # an earlier repair wasn't finished
        (True, Doors(others=(("cassandra-2", Role.CASSANDRA, -4),))),  # a row may be on the third alone
        (True, Doors(others=(("cassandra-2", Role.CASSANDRA, 4),))),
        (False, Doors(others=(("cassandra-2", Role.CASSANDRA, -600),))),
        (False, Doors(others=(("kafka-2", Role.KAFKA, 0),))),
        (False, Doors(others=(("cassandra-1", Role.CASSANDRA, 0),))),  # its own, from before
    ],
)
def test_ranges_are_compared_where_rows_may_be_lacking(lacks: bool, doors: Doors) -> None:
    assert doors.lacks() is lacks


def said(ago: timedelta) -> str:
    at = datetime.now(UTC) - ago
    return f"{at.isoformat()} ERROR [main] CommitLogReplayer - {LEFT_OUT} likely due to incomplete flush to disk\n"


@pytest.mark.parametrize(
    ("lacks", "log"),
    [
        (True, said(MINUTE / 2)),
        (True, said(timedelta(days=1)) + "\tat a.b.c(D.java:1)\n" + said(MINUTE / 2)),
        (False, said(MINUTE / 2).replace(LEFT_OUT, "Replaying")),
        (False, said(timedelta(days=1))),  # of a start before this incident
    ],
)
def test_a_node_that_left_out_a_part_of_its_log_is_on_record_until_its_ranges_are_compared(
    lacks: bool, log: str
) -> None:
    doors = Doors(log=log)
    assert doors.lacks() is lacks
    assert doors.expected == int(lacks)
    assert ("without a part of its commit log" in doors.said[-1]) is lacks


def test_what_is_on_record_does_not_depend_on_the_ranges_being_asked_for_next() -> None:
    doors = Doors(log=said(MINUTE / 2))
    record_left_out(doors, CASE, doors)  # type: ignore[arg-type]
    assert doors.pending == ["cassandra-1"]


def test_the_time_of_a_line_is_its_first_word() -> None:
    lines = ["2026-08-01T02:15:00.000+02:00 ERROR x", "at 2026-08-01", "", "2026-08-01T00:14:59.000Z ERROR x"]
    assert newest(lines) == datetime(2026, 8, 1, 0, 15, tzinfo=UTC)
    assert newest([]) is None

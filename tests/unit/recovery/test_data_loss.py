"""When a Cassandra node's ranges are compared with its replicas, and when that would be time for nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.operations.context import RecoveryRef
from kintsugi.probes.service_log import written_since
from kintsugi.recovery.data_loss import LEFT_OUT, possible_data_loss, record_left_out
from tests.fixtures_incident_table import IncidentTable

CASE = RecoveryRef("i-1", "cassandra-1", "watch_cassandra-1/run-7")
MINUTE = timedelta(minutes=1)
NEWER = tuple((f"kafka-{number}", Role.KAFKA, 20.0) for number in range(60))


class Doors(IncidentTable):
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
        self.mute = False
        self.log, self.pending, self.expected, self.notes = log, list(pending), 0, [""]
        self.own = SimpleNamespace(
            id="i-1",
            node="cassandra-1",
            role=Role.CASSANDRA,
            first_failed_at=failed,
            attempts=lambda: attempts or [Action.RESTART],
        )
        self.others = [
            SimpleNamespace(node=node, role=role, first_failed_at=failed + timedelta(seconds=later))
            for node, role, later in others
        ]
        super().__init__([*self.others, self.own])
        self.store, self.token, self.note, self.said = self, 7, self.notes.append, self.said_since

    def read_incident(self, _: str) -> Any:
        return self.own

    def pending_repairs(self) -> list[str]:
        return self.pending

    def expect_repair(self, incident: str, token: int) -> None:
        assert (incident, token) == ("i-1", 7)
        self.expected += 1
        self.pending.append("cassandra-1")

    def said_since(self, node: str, words: str, since: datetime) -> list[str]:
        assert node == "cassandra-1"
        if self.mute:
            raise StepFailed("sshd is dead")
        return written_since([line for line in self.log.splitlines() if words in line], since)

    def lacks(self) -> bool:
        return possible_data_loss(self, CASE, self)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lacks", "context"),
    [
        (False, Doors()),
        (False, Doors(pending=("cassandra-3",))),  # another's
        (True, Doors(attempts=[Action.RESTART, Action.REBUILD_NODE])),
        (True, Doors(attempts=[Action.REBUILD, Action.RESTART])),
        (True, Doors(away=timedelta(hours=4))),  # its peers have dropped their hints
        (True, Doors(pending=("cassandra-1",))),  # an earlier repair wasn't finished
        (True, Doors(others=(("cassandra-2", Role.CASSANDRA, -4),))),  # a row may be on the third alone
        (True, Doors(others=(("cassandra-2", Role.CASSANDRA, 4),))),
        (True, Doors(others=(*NEWER, ("cassandra-2", Role.CASSANDRA, 4)))),  # behind those of a large outage
        (False, Doors(others=(("cassandra-2", Role.CASSANDRA, 30),))),
        (False, Doors(others=(("cassandra-2", Role.CASSANDRA, -600),))),
        (False, Doors(others=(("kafka-2", Role.KAFKA, 0),))),
        (False, Doors(others=(("cassandra-1", Role.CASSANDRA, 0),))),  # its own, from before
    ],
)
def test_ranges_are_compared_where_rows_may_be_lacking(lacks: bool, context: Doors) -> None:
    assert context.lacks() is lacks


def said(ago: timedelta) -> str:
    at = datetime.now(UTC) - ago
    return f"{at.isoformat()} ERROR [main] CommitLogReplayer - {LEFT_OUT} likely due to incomplete flush to disk\n"


@pytest.mark.parametrize(
    ("lacks", "ago", "words"),
    [
        (True, [MINUTE / 2], LEFT_OUT),
        (True, [timedelta(days=1), MINUTE / 2], LEFT_OUT),
        (False, [MINUTE / 2], "Replaying"),
        (False, [timedelta(days=1)], LEFT_OUT),  # of a start before this incident
    ],
)
def test_a_node_that_left_out_a_part_of_its_log_is_on_record_until_its_ranges_are_compared(
    lacks: bool, ago: list[timedelta], words: str
) -> None:
    log = "\tat a.b.c(D.java:1)\n".join(said(one) for one in ago).replace(LEFT_OUT, words)
    context = Doors(log=log)
    assert context.lacks() is lacks
    assert context.expected == int(lacks)
    assert ("without a part of its commit log" in context.notes[-1]) is lacks


def test_what_is_on_record_does_not_depend_on_the_ranges_being_asked_for_next() -> None:
    context = Doors(log=said(MINUTE / 2))
    record_left_out(context, context.own, context)  # type: ignore[arg-type]
    assert context.pending == ["cassandra-1"]


def test_a_log_that_cannot_be_read_is_noted_and_holds_nothing_up() -> None:
    context = Doors(log=said(MINUTE / 2))
    context.mute = True
    assert not context.lacks()
    assert "can't be read" in context.notes[-1]
    assert "sshd is dead" in context.notes[-1]


def test_two_that_crashed_together_stay_on_record_whatever_becomes_of_the_run() -> None:
    context = Doors(others=(("cassandra-2", Role.CASSANDRA, 4),))
    assert context.lacks()
    assert context.pending == ["cassandra-1"]

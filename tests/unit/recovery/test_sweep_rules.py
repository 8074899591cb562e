"""Which incidents are abandoned, and which questions have lost their reason: tables, and what holds for all of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry, Outcome
from kintsugi.recovery.sweep_rules import (
    LONGEST,
    QUIET,
    STEADY,
    is_abandoned,
    sweep_run_id,
    why_withdrawn,
)
from tests.fixtures_incidents import T0, at, entry

WATCH, HAND, DRY = "watch_kafka-2/run-1", "recover_node/manual-1", "recover_node/dry-1"


def confirmed(after: float, run: str, verdict: str = "host_lost", **data: Any) -> JournalEntry:
    known = {"requested": "auto", "dry_run": False, "volume_intact": None, "heard_at": None}
    return entry(after, "confirm", verdict=verdict, run=run, **{**known, **data})


def incident(*entries: JournalEntry, holder: str = WATCH, **changes: Any) -> Incident:
    found = Incident("i-1", "kafka-2", Role.KAFKA, T0, T0, T0, holder, entries=entries)
    return replace(found, **changes)


LEFT = incident(confirmed(1, WATCH), entry(10, "record", run=WATCH))
CLOSED: dict[str, Any] = {"closed_at": at(11), "outcome": Outcome.FAILED}


@pytest.mark.parametrize(
    ("found", "ended", "lease", "after", "due"),
    [
        (LEFT, {WATCH}, None, 60, True),
        (LEFT, {WATCH}, None, 50, False),  # its watch may be about to continue it
        (LEFT, set(), None, 3600, False),  # its run goes on, be it by waiting for a person
        (LEFT, {WATCH}, WATCH, 60, True),  # the run was killed, and its lease hasn't lapsed
        (LEFT, {WATCH}, HAND, 60, False),  # another run has begun
        (replace(LEFT, **CLOSED), {WATCH}, None, 3600, False),
        (incident(), {WATCH}, None, 60, True),  # killed before the first line
        # A dry run came between, and became the holder: the watch's run still waits for its answer.
        (
            incident(confirmed(1, WATCH), confirmed(5, DRY, dry_run=True), holder=DRY),
            {DRY},
            None,
            3600,
            False,
        ),
        (
            incident(confirmed(1, WATCH), confirmed(5, DRY, dry_run=True), holder=DRY),
            {DRY, WATCH},
            None,
            60,
            True,
        ),
    ],
)
def test_an_incident_is_abandoned_when_everybody_has_left_it(
    found: Incident, ended: set[str], lease: str | None, after: float, due: bool
) -> None:
    assert is_abandoned(found, ended=ended, lease_holder=lease, sweeps=0, now=at(after)) is due


@given(st.integers(0, 1000))
def test_every_abandoned_incident_is_swept_again_within_half_an_hour_and_never_at_once(sweeps: int) -> None:
    def due(after: timedelta) -> bool:
        return is_abandoned(LEFT, ended={WATCH}, lease_holder=None, sweeps=sweeps, now=at(10) + after)

    assert due(LONGEST)
    assert not due(QUIET - timedelta(seconds=1))
    assert due(timedelta(seconds=75)) is (sweeps <= 1), "the first within two minutes of the last word"


def test_a_sweep_is_started_once_by_its_name() -> None:
    assert sweep_run_id(LEFT, 0) == sweep_run_id(LEFT, 0) != sweep_run_id(LEFT, 1)


def refused(run: str = WATCH, gates: tuple[str, ...] = ("copies",)) -> JournalEntry:
    return entry(3, "guard", "refused: why", refused=["why"], gates=list(gates), run=run)


MAINTAINED = refused(gates=("maintenance",))


@pytest.mark.parametrize(
    ("entries", "changes", "in_a_row", "maintenance", "withdrawn"),
    [
        ((confirmed(1, WATCH), refused()), {}, STEADY, False, True),
        ((confirmed(1, WATCH), refused()), {}, STEADY - 1, False, False),
        ((confirmed(1, WATCH), refused()), CLOSED, 0, False, True),
        ((confirmed(1, WATCH, requested="rebuild"), refused()), {}, STEADY, False, False),  # a person asked
        (
            (confirmed(1, WATCH, "clock_wrong"), refused()),
            {},
            STEADY,
            False,
            False,
        ),  # it answers, and is sick
        ((confirmed(1, WATCH), MAINTAINED), {}, 0, True, False),
        ((confirmed(1, WATCH), MAINTAINED), {}, 0, False, True),
        ((confirmed(1, WATCH), refused(gates=("budget", "maintenance"))), {}, 0, False, False),
        # What another run was told doesn't count.
        (
            (confirmed(1, WATCH), refused(), confirmed(4, HAND), refused(HAND, ("maintenance",))),
            {},
            0,
            False,
            False,
        ),
        ((), {}, STEADY, False, False),
    ],
)
def test_a_question_is_withdrawn_when_its_reason_has_passed(
    entries: tuple[JournalEntry, ...],
    changes: dict[str, Any],
    in_a_row: int,
    maintenance: bool,
    withdrawn: bool,
) -> None:
    found = incident(*entries, **changes)
    why = why_withdrawn(found, WATCH, answers_in_a_row=in_a_row, maintenance=maintenance)
    assert (why is not None) is withdrawn

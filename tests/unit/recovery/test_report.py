"""What the journal of an incident amounts to when its run ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kintsugi.fleet import Role
from kintsugi.incident import Entry, Incident, Outcome
from kintsugi.recovery.report import conclude

T0 = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
SICK = ("confirm", "kafka-2 is silent", {"verdict": "host_lost"})
ALLOWED = ("guard", "done", {"mark": "end"})
REFUSED = ("guard", "refused: kafka-2 is in maintenance", {"refused": ["kafka-2 is in maintenance"]})
DECIDED = ("decide", "done", {"mark": "end"})
WELL = [("verify", "kafka-2 gave a record back", {}), ("canary", "done", {"mark": "end"})]
BROKEN = ("configure", "failed: no such package", {"mark": "failed"})
RECORDING = ("record", "started", {"mark": "start"})


def incident(*lines: tuple[str, str, dict[str, Any]]) -> Incident:
    entries = tuple(
        Entry(T0 + timedelta(seconds=second), step, message, data)
        for second, (step, message, data) in enumerate(lines)
    )
    return Incident(
        id="kafka-2-20260801T021504Z-9f3c", node="kafka-2", role=Role.KAFKA, opened_at=T0, t0=T0, first_failed_at=T0,
        detected_at=T0, holder="watch_kafka-2/run-7", entries=entries,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "outcome", "reason"),
    [
        ([SICK, ALLOWED, DECIDED, *WELL], Outcome.HEALED, "kafka-2 gave a record back"),
        ([SICK, REFUSED, DECIDED, *WELL], Outcome.HEALED, "kafka-2 gave a record back"),  # a person approved
        ([SICK, REFUSED], Outcome.REFUSED, "refused: kafka-2 is in maintenance"),
        ([SICK, ("stand_down", "done", {"mark": "end"})], Outcome.FALSE_ALARM, "kafka-2 is silent"),
        ([SICK, ALLOWED, DECIDED, BROKEN], Outcome.FAILED, "configure failed: no such package"),
        # What an earlier run of the same incident came to doesn't count.
        (
            [SICK, ALLOWED, DECIDED, BROKEN, SICK, ALLOWED, DECIDED, *WELL],
            Outcome.HEALED,
            "kafka-2 gave a record back",
        ),
        ([SICK, REFUSED, SICK, ALLOWED], Outcome.FAILED, "the run ended after guard without a word"),
        (
            [SICK, ALLOWED, DECIDED, ("restart", "started", {"mark": "start"})],
            Outcome.FAILED,
            "the run ended after restart without a word",
        ),
    ],
)
def test_the_outcome_is_what_the_journal_shows_since_the_newest_confirmation(
    lines: list[tuple[str, str, dict[str, Any]]], outcome: Outcome, reason: str
) -> None:
    found, said = conclude(incident(*lines, RECORDING))
    assert found is outcome
    assert said.startswith(reason)

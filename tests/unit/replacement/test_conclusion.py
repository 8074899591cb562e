"""How a replacement ended, by the journal of its incident."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kintsugi.core.incident import Incident, JournalEntry, Outcome
from kintsugi.replacement.steps import ReplacementState, conclude_replacement
from tests.fixtures_incidents import at, healed

HOLDER = "replace_node/manual__1"


def record(outcome: Outcome | None, reason: str | None = None, *lines: dict[str, Any]) -> Incident:
    entries = tuple(
        JournalEntry(
            at(second), line.pop("step", "drain"), line.pop("message", "done"), {"run": HOLDER, **line}
        )
        for second, line in enumerate(map(dict, lines))
    )
    return replace(
        healed(), holder=HOLDER, outcome=outcome, reason=reason, entries=entries,
        closed_at=None if outcome is None else at(60),
    )  # fmt: skip


BEGUN = {"step": "attempt", "action": "rebuild_node", "key": HOLDER}
BACK = {"step": "attempt.withdrawn", "attempt": HOLDER}
PLAN = {"step": "dry_run", "message": "1 to replace", "changes": ["a"]}
BROKEN = {"step": "configure", "message": "failed: no such package", "mark": "failed"}


def conclude(found: Incident | None, *, dry_run: bool = False, refusal: str | None = None) -> tuple[str, str]:
    result = conclude_replacement("kafka-2", HOLDER, found, dry_run=dry_run, refusal=refusal)
    return result.state, result.text


@pytest.mark.parametrize(
    ("found", "refusal", "state", "named"),
    [
        (None, "kafka-1 is down.", ReplacementState.REFUSED, "kafka-1 is down."),
        (None, None, ReplacementState.FAILED, "not touched"),
        (record(Outcome.HEALED, "it leads", BEGUN), None, ReplacementState.REPLACED, "it leads"),
        (record(Outcome.HEALED, "it leads", BEGUN, BACK), None, ReplacementState.REFUSED, "answered again"),
        (record(Outcome.REFUSED, "a peer is down"), None, ReplacementState.REFUSED, "a peer is down"),
        (record(None, None, BEGUN, BROKEN), None, ReplacementState.FAILED, "no such package"),
        (record(Outcome.FAILED, "no disk", BEGUN), None, ReplacementState.FAILED, "no disk"),
        (record(None), None, ReplacementState.FAILED, "without a result"),
    ],
)
def test_only_a_rebuilt_and_verified_node_is_replaced(
    found: Incident | None, refusal: str | None, state: ReplacementState, named: str
) -> None:
    ended, text = conclude(found, refusal=refusal)
    assert ended == state
    assert named in text
    assert "kafka-2" in text or refusal


def test_a_dry_run_shows_the_plan_and_what_would_refuse() -> None:
    found = record(Outcome.DRY_RUN, "the plan was shown", PLAN)
    assert conclude(found, dry_run=True) == (ReplacementState.DRY_RUN, "1 to replace")
    state, text = conclude(found, dry_run=True, refusal="kafka-1 is down.")
    assert state == ReplacementState.DRY_RUN
    assert {"1 to replace", "kafka-1 is down."} <= {text[:12], text[-16:]}
    assert conclude(None, dry_run=True)[0] == ReplacementState.DRY_RUN


@pytest.mark.parametrize("reason", ["kafka-2 took a record", "kafka-2 took a record."])
def test_the_proof_and_where_to_look_are_two_sentences(reason: str) -> None:
    _, text = conclude(record(Outcome.HEALED, reason, BEGUN))
    assert text.startswith("kafka-2 is replaced: kafka-2 took a record. See `make incident ID=")

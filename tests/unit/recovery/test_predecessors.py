"""A replaced disk that may hold the last copy of something is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kintsugi.core.incident import Incident, JournalEntry
from kintsugi.recovery.predecessors import may_be_last_copy
from tests.fixtures_incidents import entry, healed

WATCH, HAND = "watch_kafka-2/run-1", "recover_node/manual-1"
APPROVED = entry(20, "decide", approved=WATCH)


def refusal(*gates: str, run: str = WATCH) -> JournalEntry:
    return entry(10, "guard", refused=["why"], gates=list(gates), run=run)


def attempt(action: str) -> JournalEntry:
    return entry(30, "attempt", action=action)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ((refusal("copies"), APPROVED, attempt("rebuild")), True),
        ((refusal("budget", "pending"), APPROVED, attempt("rebuild")), True),
        ((refusal("budget"), APPROVED, attempt("rebuild")), False),
        ((refusal("copies"), APPROVED, attempt("rebuild_node")), False),  # on its own volume
        ((attempt("rebuild"),), False),
        ((refusal("copies"), attempt("rebuild")), False),  # refused first, allowed later
        ((refusal("budget"), refusal("copies", run=HAND), APPROVED, attempt("rebuild")), False),
    ],
)
def test_what_a_person_approved_to_destroy_as_the_last_copy_is_kept(lines: Any, kept: bool) -> None:
    found: Incident = replace(healed(), entries=lines)
    assert may_be_last_copy(found) is kept

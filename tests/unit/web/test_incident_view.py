"""An incident's bar, journal, plan and the score of chaos."""

from __future__ import annotations

import gzip
from datetime import timedelta

import pytest

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry, Outcome, Phase
from kintsugi.db.dashboard import Experiment
from kintsugi.web import archive, incident_view
from tests.factories import NOW


def test_the_bar_is_as_wide_as_the_whole_and_shows_every_phase() -> None:
    parts = incident_view.build_bar({Phase.DETECT: 3.0, Phase.CONFIRM: 0.01, Phase.REJOIN: 97.0})
    assert [part.phase for part in parts] == [Phase.DETECT, Phase.CONFIRM, Phase.REJOIN]
    assert parts[-1].x + parts[-1].width == pytest.approx(1000, abs=0.1)
    assert parts[1].width > 5
    assert parts[2].width == pytest.approx(970, rel=0.02)


def test_a_bar_of_no_time_at_all_does_not_divide_by_zero() -> None:
    assert len(incident_view.build_bar({Phase.DETECT: 0.0, Phase.CONFIRM: 0.0})) == 2
    assert incident_view.build_bar({}) == ()


def test_the_journal_leaves_out_bookkeeping_and_marks_trouble() -> None:
    entries = (
        JournalEntry(NOW, "confirm", "started", {"mark": "start"}),
        JournalEntry(NOW + timedelta(seconds=2), "confirm", "the host is lost", {"verdict": "host_lost"}),
        JournalEntry(NOW + timedelta(seconds=3), "plan", "failed: stale", {"mark": "failed"}),
    )
    lines = incident_view.list_journal(
        Incident("i", "kafka-1", Role.KAFKA, NOW, NOW, NOW, "w/1", entries=entries)
    )
    assert [(line.after_s, line.step, line.weight) for line in lines] == [
        (2, "confirm", "reason"),
        (3, "plan", "trouble"),
    ]


def test_a_plan_lists_what_changes_and_nothing_else() -> None:
    document = {
        "resource_changes": [
            {"address": "module.node", "change": {"actions": ["delete", "create"]}},
            {"address": "module.other", "change": {"actions": ["no-op"]}},
        ]
    }
    assert incident_view.list_changes(document) == [incident_view.Change("module.node", "delete then create")]


def test_the_score_counts_only_faults_whose_end_is_known() -> None:
    def fault(outcome: Outcome | None, seconds: float | None = None) -> Experiment:
        redundant = NOW + timedelta(seconds=seconds) if seconds else None
        return Experiment("kafka-1", "power_off", "reset", "r", NOW, "i", outcome, redundant)

    faults = [fault(Outcome.HEALED, 30), fault(Outcome.HEALED, 50), fault(Outcome.FAILED), fault(None)]
    assert incident_view.score_chaos(faults) == incident_view.ChaosScore(total=3, healed=2, median_s=40)


def test_a_log_that_was_cut_short_gives_what_is_there() -> None:
    body = gzip.compress(b"\n".join(b"line %d" % n for n in range(5000)))
    assert archive.last_lines(body).splitlines()[-1] == "line 4999"
    assert len(archive.last_lines(body).splitlines()) == archive.TAIL_LINES
    assert "line" in archive.last_lines(body[:-500])

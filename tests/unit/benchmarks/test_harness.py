"""What runs of experiments share: telling the incidents' journals as they grow."""

from __future__ import annotations

import io
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from benchmarks.harness import load_report, report_path, tail_journal
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry
from kintsugi.db.store import StoreUnavailable

T0 = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
INCIDENT = Incident(
    id="kafka-2-20260801T021504Z-9f3c", node="kafka-2", role=Role.KAFKA, opened_at=T0, t0=T0, first_failed_at=T0,
    detected_at=T0, holder="watch_kafka-2/run-7",
    entries=(JournalEntry(T0 + timedelta(seconds=7), "fence", "all ended"),),
)  # fmt: skip


def test_the_journal_is_told_on_after_the_store_was_away() -> None:
    looks: list[int] = []
    told_twice = threading.Event()

    def read_incidents(_: int) -> list[Incident]:
        looks.append(len(looks))
        if len(looks) == 1:
            raise StoreUnavailable("connection refused")
        told_twice.set()
        return [INCIDENT]

    context: Any = SimpleNamespace(store=SimpleNamespace(read_incidents=read_incidents))
    screen = io.StringIO()
    with tail_journal(context, T0, Console(file=screen, soft_wrap=True, highlight=False)):
        assert told_twice.wait(20)
    assert screen.getvalue().split() == ["7.0", "s", "kafka-2", "fence", "all", "ended"]


def test_a_report_under_the_old_name_of_its_command_goes_on(tmp_path: Path) -> None:
    settings: Any = SimpleNamespace(repository=tmp_path)
    path = tmp_path / "build" / "crash-test.json"
    assert report_path(settings, "crash-test", old_command="walk") == path
    path.parent.mkdir()
    (path.parent / "walk.json").write_text('{"run": 1}')
    assert load_report(report_path(settings, "crash-test", old_command="walk")) == {"run": 1}
    (path.parent / "walk.json").write_text('{"run": 2}')
    assert load_report(report_path(settings, "crash-test", old_command="walk")) == {"run": 1}

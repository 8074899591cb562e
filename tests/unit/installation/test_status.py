from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kintsugi.db.flow_samples import FlowSample
from kintsugi.installation.status import (
    find_problems,
    gather_status,
    is_well,
    print_status,
    stream_of,
    unwatched_targets,
)
from kintsugi.pipeline.ingest.intake_report import FileNote, IntakeReport, IntakeRules
from kintsugi.web.intake import assess_intake
from tests.installations import give_zones, installation


def test_all_down_is_told_quickly_and_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = installation(tmp_path, "127.34")
    give_zones(settings, {"spark-worker-1": "north"})
    start = time.monotonic()
    document = gather_status(settings)
    assert time.monotonic() - start < 15, "a status must not wait for what is down"
    assert json.loads(json.dumps(document)) == document
    assert document["well"] is False
    assert document["lag"] is None
    assert {node["name"] for node in document["nodes"]} == set(settings.fleet.nodes)
    assert {node["service"] for node in document["nodes"]} == {"refused"}
    zones = {node["name"]: node["zone"] for node in document["nodes"]}
    assert {name for name, zone in zones.items() if zone} == {"spark-worker-1"}
    assert {part["state"] for part in document["control_plane"].values()} == {"DOWN"}
    print_status(document)
    printed = capsys.readouterr().out
    assert "cassandra-2" in printed
    assert printed.count("north") == 1
    assert "not all is well" in printed


def test_a_paused_watch_is_told_and_other_paused_dags_are_not() -> None:
    dags = [
        {"dag_id": "watch_kafka-1", "paused": True},
        {"dag_id": "watch_kafka-2", "paused": False},
        {"dag_id": "watch_flow", "paused": True},
        {"dag_id": "chaos_nightly", "paused": True},
    ]
    assert unwatched_targets(dags) == ["flow", "kafka-1"]


def test_a_fleet_that_nobody_watches_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    document: dict[str, object] = {
        "well": True,
        "unwatched": ["kafka-1"],
        "control_plane": {},
        "airflow": {"url": "http://127.34.0.1:8080"},
        "nodes": [],
        "dags": [],
        "lag": 0,
        "stream": None,
        "replicas": {"said": "Replicas not repaired yet.", "nodes": {}},
        "incidents": [],
        "open_incidents": [],
    }
    print_status(document)
    printed = capsys.readouterr().out
    assert "kafka-1" in printed
    assert "Replicas not repaired yet." in printed
    print_status(
        {**document, "unwatched": [], "record": {"well": True, "said": ["back-pressure: ingest waits"]}}
    )
    printed = capsys.readouterr().out
    assert "kafka-1" not in printed
    assert "ingest waits" in printed


def test_a_stream_that_falls_behind_is_told_as_on_the_page() -> None:
    now = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)

    def samples(committed: int) -> list[FlowSample]:
        return [
            FlowSample(now - timedelta(seconds=ago), True, committed, 10_000 + 100 * (300 - ago))
            for ago in range(300, -1, -5)
        ]

    late = stream_of(samples(committed=10_500), now)
    assert late is not None
    assert late["level"] == "bad"
    assert "295 s" in late["said"]
    well = stream_of(samples(committed=40_000), now)
    assert well is not None
    assert well["level"] == "well"
    assert stream_of(samples(committed=10_500), now + timedelta(minutes=5)) is None
    assert stream_of([], now) is None


def test_an_intake_that_needs_somebody_is_not_well_and_its_files_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    note = FileNote("trades/[x].csv", "k is broken [sic]", datetime(2026, 11, 27, tzinfo=UTC))
    at = datetime(2026, 11, 27, tzinfo=UTC)
    report = IntakeReport(at, failed=[note], failed_count=1, missing=["eod 2026-11-25"], not_taken=["x.md5"])
    document = {
        "nodes": [], "control_plane": {}, "airflow": {"url": "u", "scheduler": "healthy"}, "dags": [], "lag": 0,
        "incidents": [], "open_incidents": [], "replicas": None, "stream": None, "unwatched": [], "well": False,
        "intake": assess_intake(report, IntakeRules(), at).to_json(),
    }  # fmt: skip
    assert not is_well(document)
    assert is_well({**document, "intake": {"level": "note"}})
    print_status(document)
    said = capsys.readouterr().out
    assert all(text in said for text in ("trades/[x].csv", "[sic]", "eod 2026-11-25", "x.md5"))


def test_a_stream_that_falls_behind_is_not_well() -> None:
    document = {
        "nodes": [{"service": "ok", "ssh": "ok", "disk": "ok"}],
        "control_plane": {"scheduler": {"state": "RUNNING"}},
        "airflow": {"url": "http://127.34.0.1:8080", "scheduler": "healthy"},
        "stream": {"level": "note", "said": "trades are stored 40 s late."},
        "open_incidents": [],
    }
    assert is_well(document)
    assert is_well({**document, "stream": None})
    assert is_well({**document, "record": {"well": True, "said": []}})
    assert not is_well({**document, "record": {"well": False, "said": ["partition 2 …"]}})
    assert not is_well(
        {**document, "stream": {"level": "bad", "said": "Trades come in, but none is stored."}}
    )


def test_what_is_not_well_is_named() -> None:
    """With the triggerer stopped, `make status` ended with "not all is well" and no reason."""
    document: dict[str, Any] = {
        "nodes": [
            {"name": "kafka-1", "service": "refused", "ssh": "ok", "disk": "ok"},
            {"name": "kafka-2", "service": "ok", "ssh": "timeout", "disk": "ok"},
            {"name": "kafka-3", "service": "ok", "ssh": "ok", "disk": "full"},
        ],
        "control_plane": {"triggerer": {"state": "STOPPED"}, "scheduler": {"state": "RUNNING"}},
        "airflow": {"url": "http://127.34.0.1:8080", "triggerer": "unhealthy", "scheduler": "healthy"},
        "stream": {"level": "bad", "said": "No trade is stored."},
        "open_incidents": ["kafka-1-20260801T021504Z-9f3c"],
    }
    assert find_problems(document) == [
        "kafka-1 does not serve", "sshd of kafka-2 does not answer", "the disk of kafka-3 is nearly full",
        "triggerer is STOPPED", "triggerer is unhealthy", "stream: No trade is stored", "1 open incident(s)",
    ]  # fmt: skip
    silent = {
        **document,
        "nodes": [],
        "airflow": {"url": "x"},
        "control_plane": {},
        "stream": None,
        "open_incidents": None,
    }
    assert find_problems(silent) == ["Airflow does not answer", "Postgres does not answer"]


@pytest.mark.parametrize("opened", [["kafka-2-20260801T021504Z-9f3c"], None], ids=["open", "nobody can tell"])
def test_nothing_is_well_while_an_incident_is_open_or_may_be(opened: list[str] | None) -> None:
    document: dict[str, Any] = {
        "nodes": [{"service": "ok", "ssh": "ok", "disk": "ok"}],
        "control_plane": {"scheduler": {"state": "RUNNING"}},
        "airflow": {"url": "http://127.34.0.1:8080", "scheduler": "healthy"},
        "stream": None,
        "open_incidents": [],
    }
    assert is_well(document)
    assert not is_well({**document, "open_incidents": opened})

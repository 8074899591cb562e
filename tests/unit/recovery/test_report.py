"""What the journal of an incident amounts to when its run ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry, Outcome
from kintsugi.core.settings import BUCKET
from kintsugi.operations.context import RecoveryRef
from kintsugi.recovery import report
from kintsugi.recovery.assessment import ConfirmedFinding
from kintsugi.recovery.report import conclude_incident, stays_open

T0 = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
SICK = ("confirm", "kafka-2 is silent", {"verdict": "host_lost"})
ALLOWED = ("guard", "done", {"mark": "end"})
REFUSED = ("guard", "refused: kafka-2 is in maintenance", {"refused": ["kafka-2 is in maintenance"]})
DECIDED = ("decide", "done", {"mark": "end"})
WELL = [
    ("verify", "kafka-2 gave a record back", {}),
    ("verify", "done", {"mark": "end"}),
    ("canary", "done", {"mark": "end"}),
]
BROKEN = ("configure", "failed: no such package", {"mark": "failed"})
TRIED = ("attempt", "restart", {"action": "restart", "key": "watch_kafka-2/run-7"})
RETURNED = ("fence", "failed: kafka-2 answers again", {"mark": "failed"})
TAKEN_BACK = ("attempt.withdrawn", "kafka-2 answers again", {"attempt": "watch_kafka-2/run-7"})
WATCH, HAND = "watch_kafka-2/run-7", "recover_node/manual-1"
SWEEP = "recover_node/sweep__i-1__1"
WAITS = ("guard", "they fell silent together", {"waiting": True, "run": "watch_kafka-2/run-7"})
RECORDING = ("record", "started", {"mark": "start"})


def incident(*lines: tuple[str, str, dict[str, Any]]) -> Incident:
    entries = tuple(
        JournalEntry(T0 + timedelta(seconds=second), step, message, data)
        for second, (step, message, data) in enumerate(lines)
    )
    return Incident(
        id="kafka-2-20260801T021504Z-9f3c", node="kafka-2", role=Role.KAFKA, opened_at=T0, t0=T0, first_failed_at=T0,
        detected_at=T0, holder="watch_kafka-2/run-7", entries=entries,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "outcome", "reason"),
    [
        ([SICK, ALLOWED, TRIED, DECIDED, *WELL], Outcome.HEALED, "kafka-2 gave a record back"),
        (
            [SICK, REFUSED, TRIED, DECIDED, *WELL],
            Outcome.HEALED,
            "kafka-2 gave a record back",
        ),  # a person approved
        # It came up by itself: before anything was tried, after its attempt was taken back, while a person was asked.
        ([SICK, ALLOWED, DECIDED, *WELL], Outcome.HEALED, "Recovered without action"),
        (
            [SICK, ALLOWED, TRIED, DECIDED, RETURNED, TAKEN_BACK, *WELL],
            Outcome.HEALED,
            "Recovered without action",
        ),
        ([SICK, REFUSED, *WELL], Outcome.HEALED, "Recovered without action"),
        ([SICK, REFUSED], Outcome.REFUSED, "refused: kafka-2 is in maintenance"),
        ([SICK, ("stand_down", "done", {"mark": "end"})], Outcome.FALSE_ALARM, "kafka-2 is silent"),
        ([SICK, ALLOWED, DECIDED, BROKEN], Outcome.FAILED, "configure failed: no such package"),
        # What an earlier run of the same incident came to doesn't count.
        (
            [SICK, ALLOWED, TRIED, DECIDED, BROKEN, SICK, ALLOWED, DECIDED, *WELL],
            Outcome.HEALED,
            "kafka-2 gave a record back",
        ),
        ([SICK, REFUSED, SICK, ALLOWED], Outcome.FAILED, "the run ended after step guard without a reason"),
        (
            [SICK, ALLOWED, DECIDED, ("restart", "started", {"mark": "start"})],
            Outcome.FAILED,
            "the run ended after step restart without a reason",
        ),
    ],
)
def test_the_outcome_is_what_the_journal_shows_since_the_newest_confirmation(
    lines: list[tuple[str, str, dict[str, Any]]], outcome: Outcome, reason: str
) -> None:
    found, said = conclude_incident(incident(*lines, RECORDING), WATCH)
    assert found is outcome
    assert said.startswith(reason)


def test_the_reason_of_what_healed_is_its_proof_alone() -> None:
    assert (
        conclude_incident(incident(SICK, ALLOWED, TRIED, DECIDED, *WELL, RECORDING), WATCH)[1]
        == "kafka-2 gave a record back"
    )


def confirmed(verdict: str, run: str, *, dry_run: bool = False) -> tuple[str, str, dict[str, Any]]:
    data = {
        "verdict": verdict,
        "requested": "auto",
        "dry_run": dry_run,
        "volume_intact": None,
        "heard_at": None,
    }
    return "confirm", f"kafka-2 is {verdict}", {**data, "run": run}


def test_what_another_run_wrote_meanwhile_does_not_count() -> None:
    """A person looks at the plan while the watch's run waits for an answer; then both end."""

    def by(run: str, line: tuple[str, str, dict[str, Any]]) -> tuple[str, str, dict[str, Any]]:
        return line[0], line[1], {**line[2], "run": run}

    lines = [
        by(WATCH, SICK), by(WATCH, REFUSED), by(HAND, SICK), by(HAND, ("dry_run", "done", {"mark": "end"})),
        by(WATCH, TRIED), by(WATCH, DECIDED), *[by(WATCH, line) for line in WELL],
    ]  # fmt: skip
    assert conclude_incident(incident(*lines), WATCH) == (Outcome.HEALED, "kafka-2 gave a record back")
    assert conclude_incident(incident(*lines), HAND)[0] is Outcome.DRY_RUN
    assert conclude_incident(incident(*lines[:4]), WATCH)[0] is Outcome.REFUSED


def test_a_dry_run_before_the_approval_does_not_turn_the_repair_into_a_plan() -> None:
    found = incident(confirmed("host_lost", WATCH), confirmed("host_lost", HAND, dry_run=True))
    assert not ConfirmedFinding.of(found, WATCH).dry_run
    assert ConfirmedFinding.of(found, HAND).dry_run


@pytest.mark.parametrize(
    ("lines", "outcome", "holder", "serves", "open_"),
    [
        ([confirmed("host_lost", HAND, dry_run=True)], Outcome.DRY_RUN, HAND, True, False),
        (
            [confirmed("host_lost", WATCH), TRIED, confirmed("host_lost", HAND, dry_run=True)],
            Outcome.DRY_RUN,
            HAND,
            True,
            True,
        ),
        ([confirmed("clock_wrong", WATCH), TRIED], Outcome.FAILED, WATCH, True, True),
        ([confirmed("hung", WATCH), TRIED], Outcome.FAILED, WATCH, True, True),  # the sweep proves it
        ([confirmed("hung", HAND), TRIED], Outcome.FAILED, HAND, True, True),
        ([confirmed("false_alarm", SWEEP), TRIED], Outcome.FAILED, SWEEP, True, False),
        ([confirmed("host_lost", SWEEP), TRIED], Outcome.FAILED, SWEEP, False, True),
        ([confirmed("clock_wrong", SWEEP), TRIED], Outcome.FAILED, SWEEP, True, True),
        ([confirmed("hung", WATCH), TRIED], Outcome.FAILED, WATCH, False, True),
        (
            [confirmed("hung", WATCH), TRIED, confirmed("partitioned", WATCH)],
            Outcome.FALSE_ALARM,
            WATCH,
            True,
            True,
        ),
        ([confirmed("partitioned", WATCH)], Outcome.FALSE_ALARM, WATCH, True, False),
        ([confirmed("false_alarm", WATCH)], Outcome.FALSE_ALARM, WATCH, True, False),
        ([confirmed("hung", WATCH), WAITS], Outcome.FALSE_ALARM, WATCH, True, True),
        (
            [confirmed("hung", WATCH), WAITS, confirmed("false_alarm", SWEEP)],
            Outcome.FALSE_ALARM,
            SWEEP,
            True,
            False,
        ),
        ([confirmed("hung", WATCH), TRIED], Outcome.HEALED, WATCH, True, False),
    ],
)
def test_an_incident_that_is_still_somebody_elses_stays_open(
    lines: list[tuple[str, str, dict[str, Any]]], outcome: Outcome, holder: str, serves: bool, open_: bool
) -> None:
    assert stays_open(incident(*lines), outcome, holder, serves=serves) is open_


@mock_aws
def test_archives_of_incidents_are_deleted_after_their_time_and_nothing_else_is() -> None:
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    s3.create_bucket(Bucket=BUCKET)
    for key in ("incidents/a/incident.json", "incidents/a/logs/kafka.log.gz", "trades/2018-01-08/day.csv"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    context: Any = SimpleNamespace(s3=lambda purpose: s3)
    now = datetime.now(UTC)
    assert report.delete_expired_records(context, now + report.KEPT - timedelta(hours=1)) == 0
    assert report.delete_expired_records(context, now + report.KEPT + timedelta(hours=1)) == 2
    left = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [found["Key"] for found in left] == ["trades/2018-01-08/day.csv"]
    assert report.delete_expired_records(context, now + report.KEPT + timedelta(hours=1)) == 0


def test_the_end_of_a_log_reaches_back_into_the_file_that_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LOG_TAIL_BYTES", 10)
    log, full = tmp_path / "kafka.log", tmp_path / "kafka.log.1"
    log.write_bytes(b"newest")
    assert report._log_tail(log) == b"newest"
    full.write_bytes(b"much that was before")
    assert report._log_tail(log) == b"forenewest"
    log.write_bytes(b"as much as is taken")
    assert report._log_tail(log) == b"s is taken"
    log.unlink()  # moved just now
    assert report._log_tail(log) == b"was before"


def test_a_log_is_archived_also_at_the_moment_at_which_its_file_was_full(tmp_path: Path) -> None:
    for name in ("kafka.log", "kafka.log.1", "sshd.log.1", "sshd.pid"):
        (tmp_path / name).touch()
    assert report._service_logs(tmp_path) == [tmp_path / "kafka.log", tmp_path / "sshd.log"]
    assert report._service_logs(tmp_path / "never-spoke") == []


# --- a replacement on purpose -----------------------------------------------------------------------------

PURPOSE = "replace_node/manual-1"
STOOD_DOWN = ("stand_down", "done", {"mark": "end"})
GIVEN_UP = ("guard", "given up: kafka-1 is down", {"given_up": True})
KILLED_NOT = ("attempt.withdrawn", "not killed: kafka-1 is down", {"attempt": PURPOSE, "counts": False})
BLAMED = ("attempt.withdrawn", "the control plane's disk is full", {"attempt": PURPOSE, "counts": True})
FENCE_FAILED = ("fence", "failed: kafka-1 is down", {"mark": "failed"})


@pytest.mark.parametrize(
    ("lines", "outcome", "reason"),
    [
        ([GIVEN_UP, STOOD_DOWN], Outcome.REFUSED, "given up: kafka-1 is down"),
        ([GIVEN_UP, ("decide", "failed: kafka-1 is down", {"mark": "failed"})], Outcome.REFUSED, "given up"),
        ([ALLOWED, DECIDED, KILLED_NOT, FENCE_FAILED], Outcome.REFUSED, "not killed: kafka-1 is down"),
        ([ALLOWED, DECIDED, BLAMED, BROKEN], Outcome.FAILED, "configure failed"),
        ([ALLOWED, DECIDED, BROKEN], Outcome.FAILED, "configure failed"),
        ([ALLOWED, DECIDED, KILLED_NOT, *WELL], Outcome.HEALED, "Recovered without action"),
    ],
)
def test_a_replacement_that_destroyed_nothing_is_refused_and_not_failed(
    lines: list[tuple[str, str, dict[str, Any]]], outcome: Outcome, reason: str
) -> None:
    found, said = conclude_incident(incident(SICK, *lines, RECORDING), PURPOSE)
    assert found is outcome
    assert said.startswith(reason)


@pytest.mark.parametrize(("run", "well"), [(PURPOSE, True), (HAND, False)])
def test_only_a_replacement_may_end_refused_without_failing_its_run(run: str, well: bool) -> None:
    ref = RecoveryRef("i-1", "kafka-2", run)
    assert report._ended_well(Outcome.REFUSED, ref) is well
    assert not report._ended_well(Outcome.FAILED, ref)


@pytest.mark.parametrize("run", [PURPOSE, WATCH])
def test_a_recovery_whose_attempt_was_withdrawn_has_failed(run: str) -> None:
    """The watch withdrew it: that is no reason for the replacement, and no replacement for the watch."""
    lines = [SICK, DECIDED, TAKEN_BACK, BROKEN]
    assert conclude_incident(incident(*lines), run)[0] is Outcome.FAILED

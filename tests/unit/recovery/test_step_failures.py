"""Whose fault a failed step is, by tables."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import (
    ControlPlaneError,
    IncidentClosed,
    KintsugiError,
    NodeReturned,
    PreflightError,
    StaleTokenError,
    StepFailed,
)
from kintsugi.operations.context import RecoveryRef
from kintsugi.recovery import step_failures

FULL = OSError(errno.ENOSPC, "No space left on device", "/control/ansible/run-1")
CASE = RecoveryRef("i-1", "kafka-2", "watch_kafka-2/run-1")


def caused_by(cause: BaseException) -> StepFailed:
    error = StepFailed("ansible site.yml on kafka-2: ended with 250")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (FULL, True),
        (caused_by(FULL), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (PreflightError("terraform is not installed"), True),
        (
            StepFailed("terraform apply in terraform/local failed: Error: write /x: no space left on device"),
            True,
        ),
        (StepFailed("terraform plan in terraform/local failed: Error acquiring the state lock"), True),
        (
            StepFailed(
                "terraform plan in terraform/local failed: Error: dial unix /s/control/postgres-socket/.s.PGSQL.5432: "
                "connect: no such file or directory"
            ),
            True,
        ),
        (StepFailed("terraform apply in terraform/local failed: Error: local-exec provisioner error"), False),
        # A node's own full disk, as Ansible tells it from there.
        (StepFailed("ansible site.yml on kafka-2: kafka-2, task 'x': No space left on device"), False),
        (OSError(errno.ECONNREFUSED, "Connection refused"), False),
        (StepFailed("kafka-2 is out of sync in trades-0"), False),
    ],
)
def test_a_failure_is_the_control_planes_where_the_error_says_so(
    error: BaseException, ours: bool, tmp_path: Path
) -> None:
    assert (step_failures.fault_of_control_plane(error, tmp_path) is not None) is ours


def test_whatever_fails_on_a_full_or_missing_disk_is_the_control_planes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert step_failures.disk_fault(tmp_path) is None
    assert step_failures.disk_fault(tmp_path / "gone") is not None
    monkeypatch.setattr(step_failures, "NEEDED", 2**62)
    assert step_failures.fault_of_control_plane(StepFailed("kafka-2 is out of sync"), tmp_path) is not None


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (FULL, ControlPlaneError),
        (StepFailed("kafka-2 is out of sync"), StepFailed),
        (NodeReturned("kafka-2 answers"), NodeReturned),
        (IncidentClosed("closed"), IncidentClosed),
        (StaleTokenError("token 7"), StaleTokenError),
    ],
)
def test_the_attempt_is_taken_back_where_the_control_plane_is_to_blame_and_nowhere_else(
    error: Exception, raised: type[KintsugiError], tmp_path: Path
) -> None:
    withdrawn: list[tuple[str, bool]] = []
    notes: list[dict[str, Any]] = []

    @contextmanager
    def step(ref: RecoveryRef, name: str) -> Any:
        yield SimpleNamespace(token=7, note=lambda message, **data: notes.append(data))

    def withdraw(incident: str, token: int, key: str, reason: str, *, untouched: bool, counts: bool) -> None:
        assert counts, "what the control plane fails at is tried within the budget"
        withdrawn.append((key, untouched))

    store = SimpleNamespace(withdraw_attempt=withdraw)
    context: Any = SimpleNamespace(settings=SimpleNamespace(control=tmp_path), store=store, step=step)
    with (
        pytest.raises(raised) as caught,
        step_failures.handle_control_plane_fault(context, CASE, untouched=True),
    ):
        raise error
    assert type(caught.value) is raised
    ours = raised is ControlPlaneError
    assert withdrawn == ([(CASE.holder, True)] if ours else [])
    assert notes == ([{"control_plane": True}] if ours else [])

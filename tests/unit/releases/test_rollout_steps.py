"""How a roll-out ended, by what stands on record."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.core.rollout_state import NodeRollout, NodeState
from kintsugi.db.store import Deployment, ReleaseRecord
from kintsugi.infra import artifacts
from kintsugi.releases import archive, rollout_steps
from kintsugi.releases.archive import Release
from kintsugi.releases.rollout_steps import conclude, format_rollout
from tests.installations import installation

P, F, R, S, T, W = (
    NodeState.PROVEN,
    NodeState.FAILED,
    NodeState.RETURNED,
    NodeState.STUCK,
    NodeState.TOUCHED,
    NodeState.WAITING,
)


def deployment(*states: NodeState, broken: str | None = None) -> Deployment:
    steps = tuple(NodeRollout(f"kafka-{n}", ("/etc/x",), state) for n, state in enumerate(states, start=1))
    now = datetime.now(UTC)
    return Deployment("run", "b" * 64, "a" * 64, "running", broken, None, now, None, steps)


def record(*, good: bool, bad_reason: str | None = None) -> ReleaseRecord:
    now = datetime.now(UTC)
    return ReleaseRecord(
        "b" * 64, "here", now, now if good else None, now if bad_reason else None, bad_reason
    )


@pytest.mark.parametrize(
    ("found", "good", "state"),
    [
        (deployment(P, P, P), True, "held"),
        (deployment(P, P, P), False, "stopped"),  # killed before the hold was over
        (deployment(P, T, W), False, "stopped"),
        (deployment(P, W, W), True, "stopped"),  # known-good from before says nothing of today
        (deployment(), False, "stopped"),
        (deployment(R, R, W, broken="kafka-2: silent"), False, "returned"),
        (deployment(P, F, W, broken="kafka-2: silent"), False, "stuck"),  # the way back wasn't finished
        (deployment(P, S, W, broken="kafka-2: silent"), False, "stuck"),
    ],
)
def test_the_end(found: Deployment, good: bool, state: str) -> None:
    ended, reason = conclude(found, record(good=good), dry_run=False)
    assert ended == state
    assert (found.broken or "") in reason


def test_a_release_that_came_to_no_plan_says_why() -> None:
    bad = record(good=False, bad_reason="cassandra.yaml.j2: 'fleet_nam' is undefined")
    assert conclude(deployment(), bad, dry_run=False) == (
        "stopped",
        "no node was changed; the release is marked bad: cassandra.yaml.j2: 'fleet_nam' is undefined",
    )
    assert "the task that failed" in conclude(deployment(P, T, W), bad, dry_run=False)[1]


def test_a_dry_run_ends_as_one() -> None:
    assert conclude(deployment(W, W), record(good=False), dry_run=True)[0] == "dry_run"


def test_a_dry_run_that_came_to_no_plan_ends_as_stopped() -> None:
    bad = record(good=False, bad_reason="cassandra.yaml.j2: 'fleet_nam' is undefined")
    assert conclude(deployment(), bad, dry_run=True) == conclude(deployment(), bad, dry_run=False)


def test_the_story_names_what_was_restarted() -> None:
    assert "restarted for it: kafka-1, kafka-2)" in format_rollout(deployment(R, R, W, broken="x"))
    assert "restarted for it: no node)" in format_rollout(deployment(W))


@pytest.fixture
def release(tmp_path: Path) -> tuple[Any, Release]:
    """A release whose sets have one jar each, and the context of a roll-out with an empty cache."""
    source = tmp_path / "source"
    (source / "ansible/roles/kafka").mkdir(parents=True)
    (source / "ansible/roles/kafka/main.yml").touch()
    settings = replace(installation(tmp_path / "here", "127.40"), cache=tmp_path / "cache")
    for name in ("cassandra", "kafka", "spark"):
        (source / "artifacts" / name).mkdir(parents=True)
        (source / "artifacts" / name / "pom.xml").write_text(f"<project>{name}</project>")
        lock = f"{hashlib.sha256(name.encode()).hexdigest()}  {name}.jar\n"
        (source / "artifacts" / name / "jars.sha256").write_text(lock)
    return SimpleNamespace(settings=settings), archive.build(settings, source, settings.fleet_file)


def put_jar(pom: Path, directory: Path) -> None:
    (directory / f"{pom.parent.name}.jar").write_text(pom.parent.name)


def test_a_release_whose_jars_are_not_in_the_cache_is_refused(
    release: tuple[Any, Release],
) -> None:
    context, built = release
    with pytest.raises(GuardRefused, match="cassandra, kafka, spark"):
        rollout_steps._jars_fit(context, built)
    artifacts.ensure(replace(context.settings, repository=built.directory), put_jar)
    rollout_steps._jars_fit(context, built)


def test_a_stored_release_without_lock_files_takes_the_jars_of_its_time(
    release: tuple[Any, Release], tmp_path: Path
) -> None:
    context, built = release
    artifacts.ensure(replace(context.settings, repository=built.directory), put_jar)
    for lock in (tmp_path / "source").rglob("jars.sha256"):
        lock.unlink()
    old = archive.build(context.settings, tmp_path / "source", context.settings.fleet_file)
    assert archive.find_release(context.settings, old.digest) == old
    with pytest.raises(GuardRefused, match="cassandra, kafka, spark"):
        rollout_steps._jars_fit(context, old)
    for name in ("cassandra", "kafka", "spark"):
        folder = context.settings.artifacts / name
        folder.mkdir()
        pom = old.directory / "artifacts" / name / "pom.xml"
        (folder / ".pom.sha256").write_text(hashlib.sha256(pom.read_bytes()).hexdigest())
    rollout_steps._jars_fit(context, old)

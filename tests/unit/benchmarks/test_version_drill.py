"""The drill without a fleet: its releases, what it sees of a broker, and what it finds wrong."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks.release_trials import change_file
from benchmarks.version_drill import OTHER_VERSION, run
from benchmarks.version_drill.broker_versions import (
    BrokerAnswer,
    VersionChange,
    VersionWatch,
    jar_version,
    versions_seen,
)
from benchmarks.version_drill.run import (
    DrillBrokers,
    Step,
    find_problems,
    format_step,
    has_failed,
    kafka_version,
    listener_mistake,
    lower_kafka,
    rollout_seconds,
    used_level,
)
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import load_settings
from kintsugi.db.releases import DeploymentEntry
from kintsugi.db.store import Deployment
from kintsugi.infra.artifacts import read_lock
from kintsugi.releases.archive import Release

OWN, LOWER = Release("a" * 64, REPOSITORY), Release("b" * 64, OTHER_VERSION)
NODES = ("kafka-1", "kafka-2", "kafka-3")
BEGUN = datetime(2026, 11, 30, 19, tzinfo=UTC)


def test_the_drill_raises_from_another_kafka_than_the_products() -> None:
    assert kafka_version(LOWER) == "4.3.1"
    assert kafka_version(OWN) == "4.4.0"
    locked = read_lock(OTHER_VERSION / "artifacts/kafka/jars.sha256")
    assert {"kafka_2.13-4.3.1.jar", "kafka-tools-4.3.1.jar"} <= locked.keys()
    assert not any(jar.endswith("-4.4.0.jar") for jar in locked)


def test_the_lower_release_differs_in_its_kafka_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(REPOSITORY / "artifacts", tree / "artifacts")
    for path in tree.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    lower_kafka(tree)
    changed = [
        path.relative_to(tree).as_posix()
        for path in sorted(tree.rglob("*"))
        if path.is_file() and path.read_bytes() != (REPOSITORY / path.relative_to(tree)).read_bytes()
    ]
    assert changed == ["artifacts/kafka/jars.sha256", "artifacts/kafka/pom.xml"]
    assert kafka_version(Release("", tree)) == "4.3.1"


def test_the_mistake_concerns_one_broker(tmp_path: Path) -> None:
    from jinja2 import Template

    mistake = listener_mistake("kafka-3")
    path = tmp_path / mistake.path
    path.parent.mkdir(parents=True)
    shutil.copyfile(REPOSITORY / mistake.path, path)
    change_file(tmp_path, mistake)
    line = next(line for line in path.read_text().splitlines() if line.startswith("listeners="))
    ports = [
        re.findall(
            r":(\d+)", Template(line).render(protocol="SSL", ansible_host="127.1", inventory_hostname=node)
        )
        for node in NODES
    ]
    assert ports == [["9092", "9093"], ["9092", "9093"], ["9192", "9093"]]


def test_the_version_of_a_process_is_that_of_its_open_jar(tmp_path: Path) -> None:
    jar = tmp_path / "kafka_2.13-4.3.1.jar"
    jar.write_bytes(b"")
    assert jar_version([os.getpid(), 2**22 + 1]) is None
    with jar.open("rb"):
        assert jar_version([2**22 + 1, os.getpid()]) == "4.3.1"


def test_a_watch_records_changes_only() -> None:
    watch = VersionWatch(load_settings())
    for at, version in enumerate(("4.3.1", "4.3.1", None, "4.4.0", "4.4.0", None, "4.3.1")):
        watch.observe({"kafka-1": version, "kafka-2": None}, float(at))
    assert watch.changes[:3] == [
        VersionChange(0, "kafka-1", "4.3.1"),
        VersionChange(0, "kafka-2", None),
        VersionChange(2, "kafka-1", None),
    ]
    assert versions_seen(watch.changes) == {"kafka-1": ["4.3.1", "4.4.0", "4.3.1"], "kafka-2": []}


def test_brokers_that_use_different_levels_are_an_error() -> None:
    assert used_level({"kafka-1": BrokerAnswer(33, 30), "kafka-2": BrokerAnswer(30, 30)}) == 30
    with pytest.raises(StepFailed):
        used_level({"kafka-1": BrokerAnswer(33, 30), "kafka-2": BrokerAnswer(33, 33)})
    with pytest.raises(StepFailed):
        used_level({})


FAILED_RAISE = Step("failed raise", OWN, "returned", LOWER, "4.4.0")


def returned_row(**other: Any) -> dict[str, Any]:
    return {
        "state": "returned",
        "reason": "kafka-3: nothing listens",
        "seconds": 200.0,
        "failed_s": 150.0,
        "ended_s": 199.0,
        "marked_bad": True,
        "on_another_release": [],
        "seen": {node: ["4.3.1", "4.4.0", "4.3.1"] for node in NODES},
        "answers": {node: {"known": 30, "used": 30} for node in NODES},
        "traffic": [{"work": "acks=all", "done": 10, "failed": 0, "longest_s": 1.0}],
        "batches": {"longest_gap_s": 2.0, "stored": 1000},
        "problems": [],
        **other,
    }


def brokers(**other: Any) -> DrillBrokers:
    processes = dict.fromkeys(NODES, "4.3.1") | other.get("processes", {})
    return DrillBrokers(processes, dict.fromkeys(NODES, BrokerAnswer(30, 30)) | other.get("answers", {}))


def test_a_raise_that_was_rolled_back_everywhere_is_as_designed() -> None:
    assert find_problems(FAILED_RAISE, returned_row(), brokers(), 30, 30) == []
    shown = format_step(returned_row())
    assert "150.0" in shown
    assert "4.3.1 → 4.4.0 → 4.3.1" in shown


@pytest.mark.parametrize(
    ("row", "running", "word"),
    [
        ({"state": "held"}, {}, "held"),
        ({"marked_bad": False}, {}, "bad"),
        ({"on_another_release": ["kafka-2"]}, {}, "kafka-2"),
        ({"seen": {"kafka-1": ["4.3.1"], "kafka-2": ["4.4.0"], "kafka-3": ["4.4.0"]}}, {}, "kafka-1"),
        ({"traffic": [{"work": "acks=all", "done": 10, "failed": 1}]}, {}, "acks=all"),
        ({"traffic": [{"work": "canary", "done": 0, "failed": 0}]}, {}, "canary"),
        ({}, {"processes": {"kafka-2": "4.4.0"}}, "kafka-2"),
        ({}, {"processes": {"kafka-3": None}}, "kafka-3"),
        ({}, {"answers": {"kafka-1": BrokerAnswer(33, 30)}}, "kafka-1"),
        ({}, {"answers": {"kafka-1": BrokerAnswer(30, 33)}}, "kafka-1"),
    ],
)
def test_whatever_is_not_as_designed_is_one_problem(
    row: dict[str, Any], running: dict[str, Any], word: str
) -> None:
    (problem,) = find_problems(FAILED_RAISE, returned_row(**row), brokers(**running), 30, 30)
    assert word in problem


def test_a_broker_that_does_not_answer_is_a_problem() -> None:
    seen = DrillBrokers(dict.fromkeys(NODES, "4.3.1"), {})
    assert len(find_problems(FAILED_RAISE, returned_row(), seen, 30, 30)) == len(NODES)


def test_the_drill_fails_for_a_problem_of_a_step_and_for_a_trade() -> None:
    well = {"lost": 0, "doubled": 0, "wrong_derived": 0}
    assert not has_failed({"steps": [returned_row()], "account": well})
    assert has_failed({"steps": [returned_row(problems=["x"])], "account": well})
    assert has_failed({"steps": [returned_row()], "account": {**well, "lost": 1}})


def test_the_seconds_until_a_probe_failed_and_until_all_was_rolled_back() -> None:
    def at(seconds: float, node: str | None, message: str) -> DeploymentEntry:
        return DeploymentEntry(BEGUN + timedelta(seconds=seconds), node, message)

    entries = (
        at(1, None, "before"), at(9, "kafka-3", "no listener"), at(10, None, "the roll-back begins: no listener"),
        at(40, None, "returned: no listener; no node runs the release any more"),
    )  # fmt: skip
    ended = BEGUN + timedelta(seconds=40)
    broken = Deployment("r", "a", "b", "returned", "no listener", "x", BEGUN, ended, (), entries)
    assert rollout_seconds(broken, BEGUN.timestamp()) == {"failed_s": 10.0, "ended_s": 40.0}
    held = Deployment("r", "a", "b", "held", None, "x", BEGUN, ended, (), entries)
    assert rollout_seconds(held, BEGUN.timestamp()) == {"ended_s": 40.0}


class PretendFleet:
    """What a drill touches of a fleet: each roll-out ends as told, and the brokers run what they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.rolled_out: list[str] = []
        self.ends = {"lower": "held", "broken": "returned", "own": "held"}
        self.releases = {
            "own": Release("own", REPOSITORY),
            "lower": Release("lower", OTHER_VERSION),
            "broken": Release("broken", REPOSITORY),
        }
        self.on = "own"
        store = SimpleNamespace(
            read_deployment=self.deployment,
            node_releases=lambda: {node: SimpleNamespace(digest=self.on) for node in NODES},
            release_record=lambda digest: SimpleNamespace(bad_at=BEGUN if digest == "broken" else None),
        )
        settings = load_settings()
        self.context: Any = SimpleNamespace(settings=settings, fleet=settings.fleet, store=store)
        airflow = SimpleNamespace(
            unpause=lambda _: None, trigger=self.trigger, await_run=lambda *_: self.ends[self.rolled_out[-1]]
        )
        for name, stand_in in {
            "ControlPlane": lambda _: SimpleNamespace(airflow=airflow),
            "build_releases": lambda *_: (self.releases["lower"], self.releases["broken"]),
            "run_trial_traffic": lambda _: nullcontext([]),
            "VersionWatch": lambda _: nullcontext(SimpleNamespace(changes=self.changes())),
            "read_process_versions": lambda _: dict.fromkeys(NODES, self.version()),
            "ask_brokers": lambda _: dict.fromkeys(NODES, BrokerAnswer(self.level(), 30)),
            "known_levels": lambda jars: {"metadata.version": self.level()},
            "read_driver_log": lambda _: [],
        }.items():
            monkeypatch.setattr(run, name, stand_in)
        self.console = Console(file=io.StringIO(), width=160)
        report = tmp_path / "build" / "version-drill.json"
        self.drill = run.VersionDrill(settings, self.console, report, self.releases["own"])

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        assert dag_id == "deploy_release"
        assert conf["dry_run"] is False
        self.rolled_out.append(conf["release"])
        if self.ends[conf["release"]] == "held":
            self.on = conf["release"]
        return str(conf["release"])

    def deployment(self, name: str) -> Deployment:
        return Deployment(name, name, "x", self.ends[name], None, "as told", BEGUN, BEGUN)

    def version(self) -> str:
        return kafka_version(self.releases[self.on])

    def level(self) -> int:
        return 30 if self.on == "lower" else 33

    def changes(self) -> list[VersionChange]:
        return [VersionChange(0, node, version) for node in NODES for version in ("4.3.1", "4.4.0")]


def test_a_drill_lowers_raises_with_the_mistake_and_raises_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fleet = PretendFleet(monkeypatch, tmp_path)
    fleet.drill.run_steps(fleet.context)
    assert fleet.rolled_out == ["lower", "broken", "own"]
    written = json.loads(fleet.drill.path.read_text())
    assert [row["step"] for row in written["steps"]] == ["lower", "failed raise", "raise"]
    assert [row["problems"] for row in written["steps"]] == [[], [], []]
    assert written["versions"] == {"lower": "4.3.1", "raised": "4.4.0"}


def test_nothing_is_raised_when_it_was_not_lowered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fleet = PretendFleet(monkeypatch, tmp_path)
    fleet.ends["lower"] = "stopped"
    with pytest.raises(StepFailed, match="deploy_release"), fleet.drill.telling_the_way_back():
        fleet.drill.run_steps(fleet.context)
    assert fleet.rolled_out == ["lower"]


def test_a_failed_raise_that_holds_is_told_and_the_fleet_returns_to_its_own_release(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fleet = PretendFleet(monkeypatch, tmp_path)
    fleet.ends["broken"] = "held"
    fleet.drill.run_steps(fleet.context)
    assert fleet.on == "own"
    assert [bool(row["problems"]) for row in fleet.drill.document["steps"]] == [False, True, False]

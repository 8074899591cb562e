"""One or two scenarios from their making to their rows: what is undone when, and what becomes the outcome."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchmarks import scenario_report, scenario_run
from benchmarks.live_kills import EXITED, Announcement, Death
from benchmarks.scenario_report import NOT_BEGUN, Seen, pages_about, row_of
from benchmarks.scenario_run import Run, run_scenarios
from benchmarks.scenarios import ExpectedPages, Scenario
from kintsugi.chaos import injection, janitor
from kintsugi.chaos.faults import Fault
from kintsugi.chaos.guard import Aborted, Bystanders
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.core.incident import Action, Outcome
from kintsugi.db.store import StoreUnavailable
from kintsugi.recovery.diagnosis import FailureMode
from tests.fixtures_incidents import T0, healed

ON_DISK = frozenset({Action.REBUILD})
LOST = Scenario("power_off", ("kafka-2",), frozenset({FailureMode.HOST_LOST}), actions=ON_DISK, must=ON_DISK)
LEFT_ALONE = Scenario(
    "network_drop", ("kafka-2",), frozenset(FailureMode), incident=False, pages=ExpectedPages.MAY
)
COUNTED = {"lost": 0, "doubled": 0, "in_flight": 0, "stored": 7}


def seen(**changes: Any) -> Seen:
    found = {"incidents": [healed()], "healed": True, "counted": COUNTED, "pages": {}, "deaths": []}
    return Seen(**{**found, **changes})


def death(
    node: str = "kafka-2", *, heard_s: float = 1.0, what: str = "service", end: str = "stopped (SIGKILL)"
) -> Death:
    at = T0 + timedelta(seconds=10)
    return Death(node, what, 1, T0 - timedelta(hours=1), at, at - timedelta(seconds=heard_s), "kafka-1", end)


# --- the row ----------------------------------------------------------------------------------------------


def test_a_repair_as_designed() -> None:
    row = row_of(LOST, seen())
    assert row["as_designed"], row["outcome"]
    assert (row["live_kills"], row["open"], row["lost"]) == ([], [], 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"deaths": [death()]},
        {"troubles": ["the recorder didn't look"]},
        {"healed": False},
        {"pages": {"page/refused/1/0": "kafka-2 needs a person: x"}},
        {"counted": {}},
        {"counted": {**COUNTED, "in_flight": 3}},
    ],
)
def test_each_thing_that_is_not_as_designed_becomes_the_outcome(changes: dict[str, Any]) -> None:
    assert not row_of(LOST, seen(**changes))["as_designed"]


def test_a_death_that_the_experiment_announced_is_not_the_recoverys() -> None:
    row = row_of(
        LOST, seen(deaths=[death()], announcements=[Announcement("kafka-2", T0 + timedelta(seconds=9))])
    )
    assert row["as_designed"], row["outcome"]
    assert row["live_kills"] == []
    assert len(row["deaths"]) == 1


def test_where_nothing_may_be_done_a_silent_node_may_not_be_killed_either() -> None:
    quiet: dict[str, Any] = {"incidents": []}
    assert row_of(LEFT_ALONE, seen(**quiet))["as_designed"]
    killed = row_of(LEFT_ALONE, seen(**quiet, deaths=[death(heard_s=30)]))
    assert killed["live_kills"] == []
    assert not killed["as_designed"]
    assert row_of(LEFT_ALONE, seen(**quiet, deaths=[death(heard_s=30, end=EXITED)]))["as_designed"]


def test_what_was_not_recorded_is_not_called_no_kill() -> None:
    assert row_of(LOST, seen(deaths=None))["live_kills"] is None


def test_an_incident_that_stays_open_is_named() -> None:
    still = healed(closed_at=None, outcome=None)
    assert row_of(LOST, seen(incidents=[still], healed=False))["open"] == [still.id]


def test_a_page_counts_for_the_node_that_it_names_and_a_pattern_only_where_it_is_meant() -> None:
    pages = {
        "page/refused/a/0": "kafka-2 needs a person: x",
        "page/refused/b/0": "kafka-3 needs a person: x",
        f"{scenario_report.PATTERN_PAGES[0]}kafka-2": "kafka-2 again and again",
    }
    assert pages_about(LOST, pages) == ["kafka-2 needs a person: x"]
    loop = Scenario("crash_loop", ("kafka-2",), frozenset(), pages=ExpectedPages.MUST)
    assert len(pages_about(loop, pages)) == 2


# --- the run ----------------------------------------------------------------------------------------------

Done = list[str]


@pytest.fixture
def done() -> Done:
    return []


@pytest.fixture
def context(tmp_path: Any, done: Done, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fleet on which two harmless faults are made: ``held`` for a moment, and ``brief``, which can't be held."""

    def note(word: str) -> Callable[[Any, Sequence[str]], None]:
        return lambda _, names: done.append(f"{word} {'+'.join(names)}")

    faults = {
        "held": Fault("held", "held", note("make"), note("undo"), hold_s=0.01, kills=False),
        "brief": Fault("brief", "brief", note("make"), note("undo")),
    }
    for module in (injection, scenario_run, scenario_report):
        monkeypatch.setattr(module, "FAULTS", faults)
    monkeypatch.setattr(janitor, "start_janitor", lambda: None)
    monkeypatch.setattr(scenario_run, "await_steady_state", lambda _: None)
    monkeypatch.setattr(scenario_run, "allow_fault", lambda *_, **__: None)
    monkeypatch.setattr(scenario_run, "live_feed", lambda *_, **__: nullcontext([]))
    monkeypatch.setattr(scenario_run, "tail_journal", lambda *_: nullcontext())
    monkeypatch.setattr(scenario_run, "incidents_since", lambda *_: [])
    monkeypatch.setattr(scenario_run, "pages_since", lambda *_: {})
    monkeypatch.setattr(scenario_run, "reconciliation_report", lambda *_: COUNTED)
    monkeypatch.setattr(scenario_run, "WATCHED_S", 0.0)
    monkeypatch.setattr(scenario_run, "CALM_S", 0.0)
    monkeypatch.setattr(Bystanders, "check", lambda _: None)

    async def redundant(*_: Any, **__: Any) -> None:
        return None

    monkeypatch.setattr("kintsugi.operations.readiness.readiness_gap", redundant)
    store = SimpleNamespace(
        record_fault=lambda name, **_: done.append(f"record {name}"), read_faults=lambda _: []
    )
    return SimpleNamespace(store=store, fleet=load_fleet(), settings=SimpleNamespace(control=tmp_path))


HELD = Scenario("held", ("kafka-1",), frozenset(), incident=False)
BRIEF = Scenario("brief", ("cassandra-1",), frozenset())


def run(context: Any, *scenarios: Scenario) -> list[dict[str, Any]]:
    return run_scenarios(context, scenarios, Console(file=io.StringIO()), None)


def test_a_held_fault_is_recorded_made_held_and_undone(context: Any, done: Done) -> None:
    (row,) = run(context, HELD)
    assert row["as_designed"], row["outcome"]
    assert done == ["record kafka-1", "make kafka-1", "undo kafka-1"]
    assert janitor.fault_records(context.settings) == []


def test_two_scenarios_are_made_at_once_and_each_has_its_row(context: Any, done: Done) -> None:
    rows = run(context, HELD, BRIEF)
    assert [row["fault"] for row in rows] == [HELD.name, BRIEF.name]
    assert all(row["as_designed"] for row in rows)
    assert sorted(done[:2]) == ["record cassandra-1", "record kafka-1"]
    assert {"undo kafka-1", "undo cassandra-1"} <= set(done)


def test_an_incident_of_one_scenario_is_no_fault_of_the_other(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_other = healed("cassandra-1", outcome=Outcome.HEALED)
    monkeypatch.setattr(scenario_run, "incidents_since", lambda *_: [of_other])
    held, brief = run(context, HELD, BRIEF)
    assert held["as_designed"], held["outcome"]
    assert not brief["as_designed"], "the act wasn't expected there"


def test_a_person_who_stops_chaos_ends_the_run_and_the_fault(
    context: Any, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_: Any) -> None:
        raise ChaosStopped("stop")

    monkeypatch.setattr(Bystanders, "check", check)
    with pytest.raises(ChaosStopped):
        run(context, HELD, BRIEF)
    assert {"undo kafka-1", "undo cassandra-1"} <= set(done)


def test_what_breaks_beyond_the_fault_ends_it_and_becomes_the_outcome(
    context: Any, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(_: Any) -> None:
        raise Aborted("cassandra-3 hasn't answered")

    monkeypatch.setattr(Bystanders, "check", check)
    (row,) = run(context, HELD)
    assert "cassandra-3" in row["outcome"]
    assert not row["healed"]
    assert done[-1] == "undo kafka-1"


@pytest.mark.parametrize("failure", [StepFailed("kafka-3 is silent"), GuardRefused("a repair is pending")])
def test_a_fleet_that_is_not_well_is_not_broken_further(
    context: Any, done: Done, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(scenario_run, "allow_fault", refuses)
    (row,) = run(context, HELD)
    assert row["outcome"].startswith(NOT_BEGUN)
    assert done == []


def test_a_fault_that_cannot_be_made_is_undone_and_named(
    context: Any, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise StepFailed("no log holds anything")

    fault = Fault("held", "held", fails, lambda _, names: done.append("undo"), hold_s=0.01)
    for module in (injection, scenario_run, scenario_report):
        monkeypatch.setattr(module, "FAULTS", {"held": fault})
    (row,) = run(context, HELD)
    assert "no log holds anything" in row["outcome"]
    assert done[-1] == "undo"


def test_a_page_that_must_come_is_waited_for(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def pages(*_: Any) -> dict[str, str]:
        looks.append(1)
        return {"page/pattern/kafka-1/1": "kafka-1 fails again and again"} if len(looks) > 1 else {}

    monkeypatch.setattr(scenario_run, "pages_since", pages)
    (row,) = run(context, replace(HELD, pages=ExpectedPages.MUST))
    assert row["as_designed"], row["outcome"]


def test_a_store_that_was_killed_is_waited_for(context: Any) -> None:
    answers = iter([StoreUnavailable("gone"), StoreUnavailable("gone")])

    def faults(_: int) -> list[Any]:
        if (failure := next(answers, None)) is not None:
            raise failure
        return []

    context.store.read_faults = faults
    (row,) = run(context, HELD)
    assert row["as_designed"], row["outcome"]


def test_only_faults_that_end_processes_are_announced(context: Any) -> None:
    at_once = Run(context, [HELD, BRIEF], Console(file=io.StringIO()), None, t0=datetime.now(UTC))
    at_once.announce_kills(HELD, HELD.nodes)
    assert at_once.announcements == []
    at_once.announce_kills(BRIEF, BRIEF.nodes)
    assert [one.node for one in at_once.announcements] == ["cassandra-1"]


def test_a_fault_that_takes_too_long_is_given_up(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hangs(*_: Any) -> None:
        ended.wait(60)

    fault = Fault("held", "held", hangs, hold_s=0.01)
    for module in (injection, scenario_run, scenario_report):
        monkeypatch.setattr(module, "FAULTS", {"held": fault})
    monkeypatch.setattr(scenario_run, "MAKE_LONGEST_S", 0.2)
    try:
        (row,) = run(context, HELD)
    finally:
        ended.set()
    assert not row["as_designed"]
    assert not row["healed"]

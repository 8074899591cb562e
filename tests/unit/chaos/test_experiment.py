"""When chaos has come too late to be a night's, whom it picks, and what it does when it has to give up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.chaos import experiment, guard
from kintsugi.chaos.experiment import night_is_over, pick_victim, undo_power_cut
from kintsugi.chaos.guard import Aborted
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import load_fleet
from tests.fixtures_incident_table import IncidentTable
from tests.fixtures_incidents import T0, healed

DUE = datetime(2026, 8, 4, 6, 0, tzinfo=UTC)


def test_a_night_that_was_missed_is_not_made_up_for_by_day() -> None:
    assert night_is_over("scheduled", DUE, DUE + timedelta(seconds=5)) is None
    assert night_is_over("scheduled", DUE, DUE + timedelta(minutes=59)) is None
    said = night_is_over("scheduled", DUE, DUE + timedelta(hours=10))
    assert said == "this run was due at 2026-08-04 06:00 UTC; 10 h later it is skipped"


def test_who_starts_it_by_hand_gets_it_at_once() -> None:
    assert night_is_over("manual", DUE, DUE + timedelta(days=3)) is None


# --- the victim -------------------------------------------------------------------------------------------

FLEET = load_fleet()


def protecting(*names: str) -> Any:
    nodes = {name: replace(node, protected=name in names) for name, node in FLEET.nodes.items()}
    return SimpleNamespace(fleet=replace(FLEET, nodes=nodes))


def test_a_protected_node_is_never_picked_and_the_seed_still_decides() -> None:
    free = protecting()
    picked = pick_victim(free, 0, "run")
    assert pick_victim(free, 0, "run") == picked
    assert pick_victim(protecting(picked), 0, "run") != picked
    left = [name for name in FLEET.nodes if name != "kafka-2"]
    assert {pick_victim(protecting(*left), seed, "run") for seed in range(20)} == {"kafka-2"}
    with pytest.raises(GuardRefused):
        pick_victim(protecting(*FLEET.nodes), 0, "run")


def test_the_guards_are_asked_right_before_the_plug_is_pulled(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    platform = SimpleNamespace(power_off=said.append, lose_volume=said.append)
    store = SimpleNamespace(record_fault=lambda *_, **__: None, read_desired=lambda _: None)
    context: Any = SimpleNamespace(fleet=FLEET, store=store, platform=lambda: platform)

    def refuses(_: Any, fault: Any, names: Any) -> None:
        said.append(f"asked {fault.kind} {names}")
        raise GuardRefused("a repair is pending")

    monkeypatch.setattr(guard, "check_guards", refuses)
    with pytest.raises(GuardRefused):
        experiment.break_server(context, "kafka-2", run="r", lose_volume=True)
    assert said == ["asked volume_lost ['kafka-2']"]
    monkeypatch.setattr(guard, "check_guards", lambda *_: None)
    experiment.break_server(context, "kafka-2", run="r", lose_volume=False)
    assert said[1:] == ["kafka-2"]


def test_the_incident_of_the_fault_is_found_behind_many_others() -> None:
    others = [healed("kafka-3", later=60)] * 60
    context: Any = SimpleNamespace(store=IncidentTable([*others, healed("kafka-2")]))
    found = experiment.incident_since(context, "kafka-2", T0)
    assert found is not None
    assert found.node == "kafka-2"


# --- giving up --------------------------------------------------------------------------------------------


def powerless(*, running: bool = False, disk: bool = True, incidents: int = 0, lease: object = None) -> Any:
    on: list[str] = []
    platform = SimpleNamespace(running=lambda _: running, volume_exists=lambda _: disk, power_on=on.append)
    store = SimpleNamespace(read_incidents=lambda *_, **__: [1] * incidents, read_lease=lambda _: lease)
    return SimpleNamespace(platform=lambda: platform, store=store, on=on)


def test_a_node_gets_its_power_back_unless_somebody_else_sees_to_it() -> None:
    assert undo_power_cut(alone := powerless(), "kafka-2")
    assert alone.on == ["kafka-2"]
    for taken in ({"running": True}, {"disk": False}, {"incidents": 1}, {"lease": object()}):
        undo_power_cut(left := powerless(**taken), "kafka-2")
        assert left.on == [], taken


@pytest.mark.parametrize("ended", [ChaosStopped("stop"), Aborted("more broke")])
def test_the_fault_is_undone_when_chaos_has_to_end(monkeypatch: pytest.MonkeyPatch, ended: Exception) -> None:
    def check(_: Any) -> None:
        raise ended

    monkeypatch.setattr(guard.Bystanders, "check", check)
    context = powerless()
    with pytest.raises(type(ended)):
        experiment.wait_for_recovery(context, "kafka-2", DUE.isoformat(), deadline_s=60)
    assert context.on == ["kafka-2"]

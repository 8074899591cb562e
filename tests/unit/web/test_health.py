"""What the page says, by tables: the gravest rule that applies speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kintsugi.core.fleet import Role, load_fleet
from kintsugi.core.incident import Incident, JournalEntry, Phase
from kintsugi.core.observation import ProbeResult, Symptom
from kintsugi.db.dashboard import FleetSummary
from kintsugi.db.flags import Maintenance
from kintsugi.db.releases import ReleaseRecord
from kintsugi.db.replica_repairs import ReplicaRepair
from kintsugi.web import node_rows
from kintsugi.web.flow import Stream
from kintsugi.web.headline import Situation, choose_headline
from kintsugi.web.health import HealthFacts
from kintsugi.web.incident_progress import DOING, current_phase
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import Severity
from kintsugi.web.sources import AirflowSnapshot, Approval, NodeSnapshot, ReleasesSnapshot
from tests.factories import NOW

FLEET = load_fleet()
COMPARED = {f"cassandra-{n}": ReplicaRepair(NOW - timedelta(hours=n), 0) for n in (1, 2, 3)}
INSTALLED = NOW - timedelta(days=30)
CALM = FleetSummary((), {}, (), (), {}, COMPARED, INSTALLED, NOW - timedelta(hours=3), (), 12)


def known(
    *,
    down: Sequence[str] = (),
    store: FleetSummary = CALM,
    stream: Stream | None = None,
    errors: Sequence[str] = (),
    releases: ReleasesSnapshot | None = None,
    **airflow: Any,
) -> HealthFacts:
    nodes = {node.name: NodeSnapshot(ProbeResult.OK, "", None, None) for node in FLEET}
    for name in down:
        nodes[name] = NodeSnapshot(ProbeResult.REFUSED, "refused", Symptom.DOWN, NOW - timedelta(seconds=4))
    seen = replace(AirflowSnapshot(frozenset(), (), (), None), **airflow)
    said = dict.fromkeys(errors, "away")
    return HealthFacts(
        now=NOW,
        fleet=FLEET,
        nodes=CachedValue(nodes, NOW, said.get("nodes")),
        store=CachedValue(store, NOW, said.get("store")),
        airflow=CachedValue(seen, NOW, said.get("airflow")),
        releases=CachedValue(releases, NOW),
        stream=stream or Stream(Severity.WELL, "Trades flow.", ""),
    )


def opened(*entries: tuple[str, str, dict[str, Any]], node: str = "kafka-2", ago: float = 20.0) -> Incident:
    at = NOW - timedelta(seconds=ago)
    lines = tuple(
        JournalEntry(at + timedelta(seconds=n + 1), step, said, data)
        for n, (step, said, data) in enumerate(entries)
    )
    return Incident(f"{node}-i", node, Role.KAFKA, at, at, at, f"watch_{node}/1", entries=lines)


def with_open(*incidents: Incident) -> FleetSummary:
    return replace(CALM, open=incidents)


def flag(scope: str, minutes: int = 30) -> Maintenance:
    return Maintenance(scope, "disk swap", "olga", NOW, NOW + timedelta(minutes=minutes))


def test_well_says_since_when() -> None:
    said = choose_headline(known())
    assert (said.situation, said.level, said.since) == (Situation.WELL, Severity.WELL, CALM.last_trouble)
    assert said.action is None


def test_a_repair_under_way_asks_nothing_of_anybody() -> None:
    incident = opened(("confirm", "host lost", {"verdict": "host_lost"}), ("plan", "2 to replace", {}))
    said = choose_headline(known(down=["kafka-2"], store=with_open(incident)))
    assert (said.situation, said.level, said.action) == (Situation.REPAIR_RUNNING, Severity.BUSY, None)
    assert "kafka-2" in said.title
    assert current_phase(incident) is Phase.PROVISION
    assert all(part in said.advice for part in ("kafka-2", DOING[Phase.PROVISION], "2 to replace"))
    assert said.since == incident.started_at


def test_a_node_just_gone_is_the_watchs_business() -> None:
    said = choose_headline(known(down=["cassandra-1"]))
    assert (said.situation, said.level) == (Situation.NODE_AWAY, Severity.BUSY)
    assert "cassandra-1" in said.title


@pytest.mark.parametrize(
    ("given", "situation", "action", "target"),
    [
        ({"paused": frozenset({"watch_kafka-1"})}, Situation.WATCH_PAUSED, "recover", "kafka-1"),
        ({"late": ("scheduler",)}, Situation.AIRFLOW_LATE, None, ""),
        (
            {"store": replace(CALM, maintenance=(flag("kafka-1"),))},
            Situation.RECOVERY_PAUSED,
            "resume",
            "kafka-1",
        ),
        ({"store": replace(CALM, maintenance=(flag("*"),))}, Situation.RECOVERY_PAUSED, "resume", "*"),
    ],
)
def test_a_lost_node_that_nobody_heals_needs_a_person(
    given: dict[str, Any], situation: Situation, action: str | None, target: str
) -> None:
    said = choose_headline(known(down=["kafka-1"], **given))
    assert (said.situation, said.level) == (situation, Severity.BAD)
    assert (said.action, said.target) == (action, target)
    assert "kafka-1" in said.title
    assert all(part in said.title for part in given.get("late", ()))


def test_the_other_nodes_that_are_away_are_named_too() -> None:
    paused = frozenset({"watch_kafka-1"})
    said = choose_headline(known(down=["kafka-1", "kafka-3"], paused=paused))
    assert said.situation is Situation.WATCH_PAUSED
    assert all(name in said.title for name in ("kafka-1", "kafka-3"))
    many = choose_headline(known(down=[node.name for node in FLEET]))
    assert many.situation is Situation.NODE_AWAY
    assert "9 " in many.title
    assert "kafka-1" not in many.title, "a long list of names hides what happened"


def test_another_nodes_maintenance_does_not_count() -> None:
    said = choose_headline(known(down=["kafka-1"], store=replace(CALM, maintenance=(flag("kafka-3"),))))
    assert said.level is Severity.BUSY


def test_a_node_long_gone_without_a_repair_needs_a_person() -> None:
    state = known(down=["kafka-1"])
    gone = NodeSnapshot(ProbeResult.REFUSED, "", Symptom.DOWN, NOW - timedelta(minutes=2))
    state = replace(state, nodes=CachedValue({**(state.nodes.value or {}), "kafka-1": gone}, NOW))
    said = choose_headline(state)
    assert (said.situation, said.level, said.target) == (Situation.NO_REPAIR, Severity.BAD, "kafka-1")


def test_a_waiting_decision_comes_before_all_else_and_gives_the_guards_reasons() -> None:
    refused = opened(
        ("guard", "refused: …", {"refused": ["kafka-1 is away too.", "The quorum would break."]})
    )
    approval = Approval("watch_kafka-2", "run:1", "recovery.ask_a_human", -1, "?", NOW)
    said = choose_headline(known(down=["kafka-2"], store=with_open(refused), approvals=(approval,)))
    assert (said.situation, said.level, said.action) == (Situation.APPROVAL_NEEDED, Severity.BAD, "approve")
    assert said.advice == "kafka-1 is away too. The quorum would break."
    assert said.target == "watch_kafka-2:run:1:recovery.ask_a_human:-1"


def test_a_question_about_a_replacement_hides_no_failure_and_names_no_refusal() -> None:
    asked = Approval("replace_node", "run:1", "ask_a_human", -1, "Replace a protected node?", NOW)
    refused = Approval("watch_kafka-2", "run:1", "recovery.ask_a_human", -1, "?", NOW)
    calm = choose_headline(known(approvals=(asked,)))
    assert (calm.situation, calm.level, calm.title) == (
        Situation.APPROVAL_NEEDED,
        Severity.NOTE,
        asked.subject,
    )
    assert calm.target == "replace_node:run:1:ask_a_human:-1"
    assert choose_headline(known(approvals=(asked, refused))).target.startswith("watch_kafka-2:")
    down = choose_headline(known(down=["kafka-2"], store=with_open(opened()), approvals=(asked,)))
    assert down.situation is Situation.REPAIR_RUNNING


def test_a_failed_repair_is_stuck_only_after_its_run_has_ended() -> None:
    entries = [("configure", "failed: no route", {"mark": "failed"})]
    running = choose_headline(known(down=["kafka-2"], store=with_open(opened(*entries))))
    entries.append(("record", "done", {"mark": "end"}))
    ended = choose_headline(known(down=["kafka-2"], store=with_open(opened(*entries))))
    assert (running.situation, running.level) == (Situation.REPAIR_RUNNING, Severity.BUSY)
    assert (ended.situation, ended.level) == (Situation.REPAIR_STUCK, Severity.BAD)
    assert "no route" in ended.title


def test_a_silent_repair_is_stuck() -> None:
    assert choose_headline(known(store=with_open(opened(("plan", "x", {}), ago=3600)))).level is Severity.BAD


def test_watchers_that_sleep_are_told_while_all_is_well() -> None:
    late = choose_headline(known(late=("triggerer",)))
    paused = choose_headline(known(paused=frozenset({"watch_kafka-1"})))
    assert (late.level, paused.level) == (Severity.BAD, Severity.NOTE)
    assert (late.situation, paused.situation) == (Situation.AIRFLOW_LATE, Situation.WATCH_PAUSED)
    assert "kafka-1" in paused.title


@pytest.mark.parametrize("source", ["nodes", "store", "airflow"])
def test_what_cannot_be_read_is_said_and_never_called_well(source: str) -> None:
    said = choose_headline(known(errors=[source]))
    assert (said.situation, said.level) == (Situation.SOURCE_AWAY, Severity.UNKNOWN)
    assert "away" in said.advice, "the reason is given"


def test_a_sick_flow_is_the_headline() -> None:
    sick = Stream(Severity.BAD, "Trades come in, but …", "watch_flow", since=NOW)
    assert choose_headline(known(stream=sick)).title == sick.sentence


def test_rows_say_what_is_done_and_what_is_paused() -> None:
    incident = opened(("rejoin", "in sync", {}))
    state = known(down=["kafka-2"], store=with_open(incident), paused=frozenset({"watch_kafka-3"}))
    rows = {row.node.name: row for rows in node_rows.build_fleet_rows(state).values() for row in rows}
    assert len(rows) == 9
    assert (rows["kafka-2"].level, rows["kafka-2"].state) == (Severity.BUSY, "rejoining its cluster")
    assert rows["kafka-3"].notes == ("watch paused",)
    assert rows["kafka-1"].state == "answers"


def test_a_row_says_the_zone_of_its_node() -> None:
    state, zoned = known(), replace(FLEET.node("kafka-2"), zone="north")
    assert node_rows.build_node_row(state, zoned).notes == ("zone north",)
    assert node_rows.build_node_row(state, FLEET.node("kafka-2")).notes == ()


def test_a_node_on_another_release_and_drift_are_told() -> None:
    good = ReleaseRecord("a" * 64, "checkout", NOW, NOW, None, None)
    trial = ReleaseRecord("b" * 64, "checkout", NOW, None, None, None)
    seen = ReleasesSnapshot(
        {"kafka-1": trial, "kafka-2": good}, good, {"kafka-2": ["/etc/a", "/etc/b", "/etc/c"]}
    )
    state = known(releases=seen)
    rows = {row.node.name: row.notes for rows in node_rows.build_fleet_rows(state).values() for row in rows}
    assert rows["kafka-1"] == ("runs release bbbbbbbbbbbb, unproven",)
    assert rows["kafka-2"] == ("drift: /etc/a, /etc/b and more",)
    assert rows["kafka-3"] == ()
    line = node_rows.describe_releases(state.releases)
    assert "a" * 12 in line
    assert "kafka-2" in line
    assert "kafka-1" not in line
    nothing = node_rows.describe_releases(known(releases=ReleasesSnapshot({}, None, {})).releases)
    assert nothing
    assert "aaaa" not in nothing


def compared(**nodes: ReplicaRepair) -> FleetSummary:
    return replace(CALM, replica_repairs={name.replace("_", "-"): known for name, known in nodes.items()})


def test_the_oldest_comparison_of_a_replica_is_told() -> None:
    oldest = f"{NOW - timedelta(hours=3):%Y-%m-%d %H:%M} UTC"
    assert oldest in node_rows.describe_replica_repairs(known())
    never = node_rows.describe_replica_repairs(known(store=compared()))
    assert never
    assert "UTC" not in never
    some = compared(
        cassandra_1=ReplicaRepair(NOW, 2), cassandra_2=ReplicaRepair(failed_at=NOW, failure="no room")
    )
    missing, failed, _ = node_rows.describe_replica_repairs(known(store=some)).split(".")
    assert [name for name in COMPARED if name in missing] == ["cassandra-2", "cassandra-3"]
    assert [name for name in COMPARED if name in failed] == ["cassandra-2"]
    assert (
        choose_headline(known(store=replace(some, installed_at=NOW - timedelta(days=7)))).level
        is Severity.WELL
    )
    assert choose_headline(known(store=some)).since == INSTALLED  # never compared, and not for want of time


@pytest.mark.parametrize(("days", "level"), [(7.9, Severity.WELL), (8.1, Severity.NOTE)])
def test_replicas_that_were_not_compared_for_too_long_are_told(days: float, level: Severity) -> None:
    old = ReplicaRepair(NOW - timedelta(days=days), 0, NOW, "no room")
    new = ReplicaRepair(NOW, 0)
    said = choose_headline(known(store=compared(cassandra_1=new, cassandra_2=old, cassandra_3=new)))
    assert said.level is level
    assert (said.since == old.whole_at) is (level is Severity.NOTE)


@pytest.mark.parametrize("ago", [1.0, 600.0, 86_400.0])
@pytest.mark.parametrize(
    "lines",
    [
        (),
        (("confirm", "host lost", {"verdict": "host_lost"}),),
        (("record", "done", {"mark": "end"}),),
        (("restart", "failed: no answer", {"mark": "failed"}), ("record", "done", {"mark": "end"})),
    ],
)
def test_nothing_is_well_while_an_incident_is_open(lines: tuple[Any, ...], ago: float) -> None:
    """Though all nodes answer: it may be being proven, or left by everybody."""
    assert choose_headline(known(store=with_open(opened(*lines, ago=ago)))).level is not Severity.WELL


def test_the_page_tells_of_nodes_that_come_or_go() -> None:
    reading = known(releases=ReleasesSnapshot({}, None, {}, "kafka-4 is being added")).releases
    assert node_rows.describe_scaling(reading) == "kafka-4 is being added"
    assert node_rows.describe_scaling(known(releases=ReleasesSnapshot({}, None, {})).releases) == ""

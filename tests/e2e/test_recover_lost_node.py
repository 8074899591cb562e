"""The true end to end, as a user runs it: up, ingest, pull a plug, recovered by itself, nothing lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kintsugi.environments.local.node import node_pids
from kintsugi.environments.local.node_process import read_record
from tests.e2e.conftest import TRADES, VICTIM, Command
from tests.installations import leads_nowhere


@pytest.mark.timeout(1200)
def test_the_lost_node_is_rebuilt_without_a_hand(report: dict[str, Any]) -> None:
    (recovery,) = report["recoveries"]
    assert recovery["node"] == VICTIM
    assert recovery["role"] == "kafka"
    assert recovery["attempts"] == ["rebuild"]
    assert set(recovery["phases"]) == {
        "detect",
        "confirm",
        "archive",
        "provision",
        "configure",
        "rejoin",
        "verify",
    }
    assert 0 < recovery["detected_s"] < recovery["repaired_s"] <= recovery["consistent_s"]


def test_it_was_rebuilt_with_every_package_client_led_nowhere(
    kintsugi: Command, report: dict[str, Any]
) -> None:
    """The recovery's tasks are forks of the scheduler; Terraform made the new server; Ansible came over SSH."""
    from kintsugi.controlplane.control_plane import AIRFLOW, ControlPlane
    from kintsugi.infra import ssh

    settings = kintsugi.settings
    handed_on = kintsugi.way_out["KINTSUGI_INHERIT"].split(",")
    blocked = {f"{name}={kintsugi.way_out[name]}" for name in handed_on}
    rebuilt = read_record(settings, VICTIM)
    assert rebuilt is not None
    components = ControlPlane(settings).status()
    for pid in (*(components[name]["pid"] for name in AIRFLOW), rebuilt.pid):
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        assert blocked <= set(environment), pid
    session = ssh.run_over_ssh(settings, settings.fleet.node(VICTIM), ["env"]).stdout.splitlines()
    assert blocked <= set(session)
    assert leads_nowhere()  # nobody took the address meanwhile
    assert not (settings.state.parent / "no-way-out/home/.m2/repository").exists()


def test_no_trade_is_lost_or_doubled(report: dict[str, Any]) -> None:
    assert report["read"] >= TRADES
    assert report["read"] == report["accepted"] + report["rejected"]
    assert report["rejected"] == sum(report["rejected_by_reason"].values()) == 12
    assert report["stored"] == report["in_kafka"] == report["accepted"] - report["duplicates"]
    assert (report["lost"], report["doubled"], report["extra"], report["altered"]) == (0, 0, 0, 0)


def test_a_row_that_is_deleted_by_hand_is_named(kintsugi: Command, report: dict[str, Any]) -> None:
    """The reconciliation must be able to fail: one row less in Cassandra, and it says which."""
    from kintsugi.core.fleet import Role
    from kintsugi.pipeline.cassandra_session import session_scope

    nodes = [node.address for node in kintsugi.settings.fleet.of(Role.CASSANDRA)]
    with session_scope(nodes) as session:
        row = session.execute("SELECT symbol, trade_date, slot, ts, trade_id FROM trades.trade LIMIT 1").one()
        session.execute(
            "DELETE FROM trades.trade WHERE symbol = %s AND trade_date = %s AND slot = %s"
            " AND ts = %s AND trade_id = %s",
            tuple(row),
        )
    told = kintsugi("reconcile", seconds=120)
    assert told.returncode == 1
    report = json.loads(told.stdout)
    assert report["lost"] == 1
    assert report["named"]["lost"] == [bytes(row.trade_id).hex()]


def test_status_is_told_to_programs(kintsugi: Command, report: dict[str, Any]) -> None:
    told = kintsugi("status", "--format", "json", seconds=60)
    document = json.loads(told.stdout)
    assert {node["name"]: node["service"] for node in document["nodes"]}[VICTIM] == "ok"
    assert document["incidents"][0]["node"] == VICTIM
    assert document["incidents"][0]["outcome"] == "healed"


def test_the_story_is_in_s3(kintsugi: Command, report: dict[str, Any]) -> None:
    from kintsugi.core.connections import s3_client
    from kintsugi.core.s3_keys import S3Purpose
    from kintsugi.core.settings import BUCKET

    s3 = s3_client(kintsugi.settings, S3Purpose.PAGE)
    prefix = f"incidents/{report['recoveries'][0]['incident']}/"
    keys = {item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]}
    assert {f"{prefix}incident.json", f"{prefix}plan.json", f"{prefix}logs/kafka.log.gz"} <= keys
    story = json.loads(s3.get_object(Bucket=BUCKET, Key=f"{prefix}incident.json")["Body"].read())
    assert story["outcome"] == "healed"
    seen = [entry["message"] for entry in story["entries"] if entry["data"].get("finding")]
    assert len(seen) >= 3, "what the watch saw didn't come from the triggerer to the recovery"


def test_dry_run_by_hand_changes_nothing(kintsugi: Command, report: dict[str, Any]) -> None:
    from kintsugi.controlplane.control_plane import ControlPlane
    from kintsugi.core.connections import store_dsn
    from kintsugi.core.users import current_actor
    from kintsugi.db.store import Store

    airflow = ControlPlane(kintsugi.settings).airflow
    before = node_pids(kintsugi.settings, "cassandra-1")
    run = airflow.trigger("recover_node", {"node": "cassandra-1", "action": "rebuild", "dry_run": True})
    assert airflow.await_run("recover_node", run, 180) == "success"
    ran = {task.task_id for task in airflow.tasks("recover_node", run) if task.state == "success"}
    assert "recovery.show_plan" in ran
    assert not ran & {"recovery.plan", "recovery.provision", "recovery.restart"}
    assert set(before) <= set(node_pids(kintsugi.settings, "cassandra-1"))
    store = Store(store_dsn(kintsugi.settings))
    named = [
        entry.data["started_by"]
        for incident in store.read_incidents(5, node="cassandra-1")
        for entry in incident.entries
        if "started_by" in entry.data
    ]
    assert current_actor() in named


def test_what_a_guard_refuses_waits_for_a_person_and_is_done_when_one_approves(
    kintsugi: Command, report: dict[str, Any]
) -> None:
    from kintsugi.controlplane.control_plane import ControlPlane
    from kintsugi.core.connections import store_dsn
    from kintsugi.core.incident import Outcome
    from kintsugi.core.users import current_actor
    from kintsugi.db.store import Store
    from kintsugi.environments.local import node

    name, dag = "spark-worker-2", "watch_spark-worker-2"
    airflow, store = ControlPlane(kintsugi.settings).airflow, Store(store_dsn(kintsugi.settings))
    store.set_maintenance(name, reason="its rack is being moved", user="ada")
    node.power_off(kintsugi.settings, name)
    try:
        (question,) = until(lambda: [one for one in airflow.questions() if one["dag_id"] == dag], 120)
        assert f"Maintenance: {name} is in maintenance" in question["body"]
        assert not node_pids(kintsugi.settings, name)  # nobody acted meanwhile

        def approved_and_closed() -> list[Any]:
            # Airflow may lose an answer as quick as ours and ask anew (see request_approval): a person says it again.
            for asked in [one for one in airflow.questions() if one["dag_id"] == dag]:
                airflow.answer(asked, "Approve")
            return [one for one in store.read_incidents(1, node=name) if one.closed_at]

        (healed,) = until(approved_and_closed, 240)
    finally:
        store.clear_maintenance(name)
    assert healed.outcome is Outcome.HEALED
    said = [entry.message for entry in healed.entries if "approved" in entry.data]
    assert said == [f"{current_actor()} approved the recovery although the guards refused it"]


def until(condition: Callable[[], list[Any]], seconds: float) -> list[Any]:
    """The first non-empty answer of ``condition``; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"nothing after {seconds:.0f} s"
        time.sleep(0.5)
    return found

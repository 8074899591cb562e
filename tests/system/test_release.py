"""Releases on real servers: three Kafka brokers and three Cassandra nodes, without Airflow.

A good release is rolled out, three bad ones are caught with at most one node touched, and work with acks=all and at
LOCAL_QUORUM goes on through all of it. Then an edit by hand is found and put right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

import pytest

from benchmarks import release_traffic, release_trials
from benchmarks.release_trials import TRIALS, Trial
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.operations.context import Context
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.recovery.planned_stop import stop_reasons
from kintsugi.releases import assignment, drift, rollout, rollout_record, rollout_steps

pytestmark = pytest.mark.timeout(1500)
GOOD = Trial(
    "a larger heap", "ansible/roles/kafka/defaults/main.yml", "kafka_heap: 384m", "kafka_heap: 392m", most=3
)


@contextmanager
def work(context: Context) -> Iterator[list[release_traffic.TrafficProbe]]:
    """Records with acks=all and rows at LOCAL_QUORUM, all the time."""
    addresses = [node.address for node in context.fleet.of(Role.CASSANDRA)]
    numbers = count()
    with session_scope(addresses) as session, release_traffic.open_record_beat(context.fleet) as produce:
        session.execute("CREATE TABLE IF NOT EXISTS work (id int PRIMARY KEY)")
        insert = session.prepare("INSERT INTO work (id) VALUES (?)")

        def write() -> None:
            session.execute(insert, (next(numbers),))

        with release_traffic.run_traffic(
            {"acks=all": (0.1, produce), "LOCAL_QUORUM": (0.1, write)}
        ) as pulses:
            yield pulses


def roll_out(context: Context, run: str, digest: str) -> rollout_record.RolloutRecord:
    """What the DAG does, task by task."""
    try:
        rollout_steps.prepare_rollout(context, run, digest)
        rollout_steps.plan_rollout(context, run)
        for node in rollout.update_order(context.fleet):
            print(rollout_steps.update_node(context, run, node.name, stop_reasons))
            print(rollout_steps.verify_update(context, run, node.name, stop_reasons))
        rollout_steps.bake_release(context, run, 5.0)
    except (StepFailed, GuardRefused) as error:
        print(error)
        with suppress(StepFailed, GuardRefused):
            print(rollout_steps.roll_back(context, run, stop_reasons))
    return rollout_steps.finish_rollout(context, run)


def good_digest(context: Context) -> str:
    good = context.store.last_known_good()
    assert good is not None, "the fleet has no known-good release"
    return good.digest


def since(context: Context, node: Node, program: str) -> str:
    """When a program of a node was started, as its init says it."""
    from kintsugi.infra import ssh

    config = context.settings.node_root(node.name) / "etc" / "supervisord.conf"
    done = ssh.run_over_ssh(context.settings, node, ["supervisorctl", "-c", str(config), "pid", program], 30)
    return done.stdout.strip()


def test_the_first_release_is_known_good_and_nothing_has_drifted(context: Context) -> None:
    digest = good_digest(context)
    assert {record.digest for record in context.store.node_releases().values()} == {digest}
    assert len(context.store.node_releases()) == len(context.fleet.nodes)
    report = drift.detect_drift(context, holder="test")
    assert report.remaining == {}
    assert report.left_out == {}


def test_an_edit_by_hand_is_found_and_put_right_without_a_restart(context: Context) -> None:
    node = context.fleet.node("kafka-2")
    path = context.settings.node_root(node.name) / "etc/kafka/server.properties"
    before, pid = path.read_text(), since(context, node, "kafka")
    path.write_text(before.replace("min.insync.replicas=2", "min.insync.replicas=1"))
    assert drift.detect_drift(context, holder="test").remaining == {"kafka-2": (str(path),)}
    assert context.store.read_drift() == {"kafka-2": [str(path)]}
    report = drift.detect_drift(context, holder="test", put_right=True)
    assert report.put_right == {"kafka-2": (str(path),)}
    assert path.read_text() == before
    assert since(context, node, "kafka") == pid
    assert drift.detect_drift(context, holder="test").remaining == {}
    assert context.store.read_drift() == {}


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_a_bad_release_is_caught(context: Context, trial: Trial) -> None:
    before = good_digest(context)
    bad = release_trials.build_bad_release(context, assignment.open_release(context, before), trial)
    with work(context) as pulses:
        story = roll_out(context, trial.name, bad.digest)
    print(story.text, [pulse.to_json() for pulse in pulses])
    assert not story.well
    judged = release_trials.judge_trial(context, trial, trial.name, pulses)
    assert judged["as_designed"], judged
    assert good_digest(context) == before
    assert drift.detect_drift(context, holder="test").remaining == {}


def test_a_good_release_reaches_every_node_it_changes_and_no_other(context: Context) -> None:
    before = {node.name: since(context, node, node.role.value) for node in context.fleet}
    better = release_trials.build_bad_release(
        context, assignment.open_release(context, good_digest(context)), GOOD
    )
    with work(context) as pulses:
        story = roll_out(context, "better", better.digest)
    print(story.text, [pulse.to_json() for pulse in pulses])
    assert story.well, story.text
    assert good_digest(context) == better.digest
    assert [pulse.failures for pulse in pulses] == [[], []]
    after = {node.name: since(context, node, node.role.value) for node in context.fleet}
    assert {name for name in before if before[name] != after[name]} == {"kafka-1", "kafka-2", "kafka-3"}
    for node in context.fleet.of(Role.KAFKA):
        definition = context.settings.node_root(node.name) / "etc/supervisor.d/kafka.conf"
        assert "-Xmx392m" in definition.read_text()


def test_rolling_back_runs_the_old_templates(context: Context) -> None:
    """What recovery does: the node is configured from the last known-good release, whatever it ran before."""
    name, good = "kafka-3", assignment.open_release(context, good_digest(context))
    definition = context.settings.node_root(name) / "etc/supervisor.d/kafka.conf"
    heap = next(word for word in definition.read_text().split() if word.startswith("-Xmx"))
    suspect = release_trials.build_bad_release(
        context, good, Trial("suspect", GOOD.path, heap[4:], "391m", most=1)
    )
    context.store.set_node_releases([name], suspect.digest)
    assignment.ansible_for(context, name).run("site.yml", limit=name, timeout_s=280)
    assert "-Xmx391m" in definition.read_text()
    assert assignment.has_unproven_release(context.store, name)
    assignment.ansible_for(context, name, roll_back=True).run("restart.yml", limit=name, timeout_s=280)
    assert heap in definition.read_text()
    assert context.store.node_releases()[name].digest == good.digest

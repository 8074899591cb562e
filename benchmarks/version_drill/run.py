"""``make version-drill``: raise the version of Kafka under load, by a release that fails, and by one that holds.

The fleet runs its known-good release. 300 trades a second go through S3, and records with acks=all into Kafka.
``deploy_release`` rolls out, one after another:

1. *lower*: the same release with Kafka 4.3.1 (``artifacts/kafka`` beside this module). It becomes known-good. So the
   raise that follows is a raise, and there is an older version to return to.
2. *failed raise*: the Kafka of before, and a listener at a wrong port on the last broker. Two brokers are raised and
   verified; the probe of the third fails. All three must be back on 4.3.1 without anybody's help.
3. *raise*: the fleet's own release again, which must become known-good.

After each step every broker is asked for what it runs: its process for the jars that it has open, and the broker for
the features that it knows. The features that the cluster uses must be the same all the time. At the end every trade is
reconciled. A drill that ends early says how to return to the fleet's own release.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.demo import live_feed
from benchmarks.drill import Drill
from benchmarks.harness import (
    await_steady_state,
    describe_machine,
    make_console,
)
from benchmarks.release_trials import (
    DAG_ID,
    HOLD_S,
    Trial,
    build_changed_release,
    change_file,
    format_traffic,
    run_trial_traffic,
)
from benchmarks.restore_drill import await_flow, describe_window, read_driver_log
from benchmarks.version_drill import OTHER_VERSION
from benchmarks.version_drill.broker_versions import (
    BrokerAnswer,
    VersionWatch,
    ask_brokers,
    read_process_versions,
    versions_seen,
)
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.db.store import Deployment
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import has_faults, summarize_report
from kintsugi.releases import assignment, rollout
from kintsugi.releases.archive import Release
from kintsugi.releases.release_artifacts import product_versions, settings_of
from kintsugi.releases.release_features import known_levels
from kintsugi.wire.kafka import METADATA_FEATURE

ROWS, PERIOD_S = 300, 1.0
ROLLOUT_LIMIT_S = 1800.0
RECONCILE_DEADLINE_S = 600.0
KAFKA = "kafka_2.13"
_LISTENER = "\nlisteners={{ protocol }}://{{ ansible_host }}:"


@dataclass(frozen=True, slots=True)
class Step:
    """One roll-out: which release, how it must end, and what every broker must run then.

    ``ends_on``: the release that every node must run at the end. ``ran``: the version of Kafka that every broker must
    have run meanwhile.
    """

    name: str
    release: Release
    state: str
    ends_on: Release
    ran: str


@dataclass(frozen=True, slots=True)
class DrillBrokers:
    """What all brokers run at one moment: by their processes, and by their answers."""

    processes: Mapping[str, str | None]
    answers: Mapping[str, BrokerAnswer]


@dataclass
class VersionDrill(Drill):
    """One drill. ``own``: the release that the fleet runs before and after."""

    own: Release

    def describe_way_back(self) -> str:
        """Return how a person returns to the fleet's own release."""
        return f"trigger {DAG_ID} in Airflow with the release {self.own.short}, without dry run"

    def run_steps(self, context: Context) -> None:
        """Run the three roll-outs. Raises StepFailed if the first doesn't hold: then there is nothing to raise from."""
        lower, broken = build_releases(context, self.own)
        old, new = kafka_version(lower), kafka_version(self.own)
        used = used_level(ask_brokers(context.fleet))
        self.note(
            f"Kafka {new} is lowered to {old}, raised by a release that fails, and raised again; metadata.version "
            f"is {used}",
            versions={"lower": old, "raised": new},
            metadata_version=used,
            steps=[],
        )
        if not self.run_step(context, Step("lower", lower, "held", lower, old)):
            raise StepFailed(f"the roll-out of Kafka {old} did not end as designed, so nothing can be raised")
        self.run_step(context, Step("failed raise", broken, "returned", lower, new))
        self.run_step(context, Step("raise", self.own, "held", self.own, new))

    def run_step(self, context: Context, step: Step) -> bool:
        """Roll one release out by the DAG, ask every broker what it runs, and report it; whether it was as designed."""
        self.console.rule(f"[bold]{step.name}: release {step.release.short}", align="left")
        airflow = ControlPlane(self.settings).airflow
        airflow.unpause(DAG_ID)
        begun = time.time()
        with run_trial_traffic(context) as traffic, VersionWatch(self.settings) as watch:
            conf = {"release": step.release.digest, "hold_seconds": HOLD_S, "dry_run": False, "again": True}
            run_id = airflow.trigger(DAG_ID, conf)
            airflow.await_run(DAG_ID, run_id, ROLLOUT_LIMIT_S)
        ended = time.time()
        brokers = DrillBrokers(read_process_versions(self.settings), ask_brokers(context.fleet))
        row = {
            "step": step.name,
            **describe_rollout(context, step, context.store.read_deployment(run_id), begun),
            "seconds": round(ended - begun, 1),
            "seen": versions_seen(watch.changes),
            "changes": [[round(one.at - begun, 1), one.node, one.version] for one in watch.changes],
            "processes": dict(brokers.processes),
            "answers": {node: asdict(answer) for node, answer in brokers.answers.items()},
            "traffic": [probe.to_json() for probe in traffic],
            "batches": describe_window(read_driver_log(self.settings), begun, ended),
        }
        level = known_levels(settings_of(self.settings, step.ends_on).jars("kafka"))[METADATA_FEATURE]
        row["problems"] = find_problems(step, row, brokers, level, self.document["metadata_version"])
        self.note(format_step(row), steps=[*self.document["steps"], row])
        return not row["problems"]


def run_version_drill(settings: Settings, *, report: Path | None = None) -> int:
    """Run the drill; 0 if every roll-out ended as designed and nothing is lost or doubled.

    Raises GuardRefused if not every node runs the known-good release, StepFailed if the pipeline isn't well before, or
    if a roll-out doesn't end.
    """
    context = Context.from_environment()
    path = report or settings.repository / "build" / "version-drill.json"
    drill = VersionDrill(settings, make_console(), path, require_own_release(context))
    unpause_dags(context)
    await_steady_state(context)
    started = datetime.now(UTC)
    drill.note(
        f"{ROWS / PERIOD_S:.0f} trades a second. If this is killed: {drill.describe_way_back()}",
        machine=describe_machine(),
        rate=ROWS / PERIOD_S,
        own_release=drill.own.digest,
    )
    with drill.telling_the_way_back():
        with live_feed(context, rows=ROWS, period_s=PERIOD_S):
            await_flow(settings)
            drill.run_steps(context)
        counted = summarize_report(reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S))
    drill.note_account(context, counted, started)
    return 1 if has_failed(drill.document) else 0


def require_own_release(context: Context) -> Release:
    """Return the known-good release.

    Raises GuardRefused if there is none, if a node runs another one, or if its Kafka is the drill's.
    """
    good = context.store.last_known_good()
    if good is None:
        raise GuardRefused(
            "no release is known-good yet, so there is nothing to raise from; roll one out first"
        )
    records = context.store.node_releases()
    others = sorted(node for node in context.fleet.nodes if records[node].digest != good.digest)
    if others:
        raise GuardRefused(
            f"{', '.join(others)} run another release than the known-good one; trigger {DAG_ID} with "
            f"{good.digest[:12]} first"
        )
    own = assignment.open_release(context, good.digest)
    if kafka_version(own) == (version := kafka_version(Release("", OTHER_VERSION))):
        raise GuardRefused(f"the fleet runs Kafka {version} already, so the drill could not raise it")
    return own


def used_level(answers: Mapping[str, BrokerAnswer]) -> int:
    """Return the level of ``metadata.version`` that the cluster uses; raises StepFailed unless all agree. Pure."""
    levels = {answer.used for answer in answers.values()}
    if len(levels) != 1:
        raise StepFailed(f"the brokers use metadata.version {sorted(levels)}; see `make status`")
    return levels.pop()


def build_releases(context: Context, own: Release) -> tuple[Release, Release]:
    """Return ``own`` with the drill's Kafka, and ``own`` with a wrong listener on the last broker."""
    last = context.fleet.of(Role.KAFKA)[-1].name
    mistake = listener_mistake(last)
    lower = build_changed_release(
        context,
        own,
        f"version drill: Kafka {kafka_version(Release('', OTHER_VERSION))}, on {own.short}",
        lower_kafka,
    )
    broken = build_changed_release(
        context,
        own,
        f"version drill: {mistake.name}, on {own.short}",
        lambda tree: change_file(tree, mistake),
    )
    return lower, broken


def lower_kafka(tree: Path) -> None:
    """Replace the declaration of Kafka in the files of a release by the drill's."""
    for name in ("pom.xml", "jars.sha256"):
        path = Path("artifacts/kafka") / name
        (tree / path).chmod(0o644)
        shutil.copyfile(OTHER_VERSION / path, tree / path)


def listener_mistake(node: str) -> Trial:
    """Return the mistake: the broker ``node`` listens at a wrong port, so nobody can use what it leads."""
    return Trial(
        f"wrong listener of {node}",
        "ansible/roles/kafka/templates/server.properties.j2",
        f"{_LISTENER}9092",
        f"{_LISTENER}{{{{ 9192 if inventory_hostname == '{node}' else 9092 }}}}",
        most=3,
    )


def kafka_version(release: Release) -> str:
    """Return the version of Kafka that the release declares, as ``4.4.0``."""
    return product_versions(release)[KAFKA]


def describe_rollout(context: Context, step: Step, deployment: Deployment, begun: float) -> dict[str, Any]:
    """Return what our records say of a roll-out that began at ``begun`` (seconds since 1970)."""
    runs = {node: record.digest for node, record in context.store.node_releases().items()}
    return {
        "release": step.release.digest,
        "state": deployment.state,
        "reason": deployment.reason,
        **rollout_seconds(deployment, begun),
        "updated": rollout.updated_nodes(deployment.steps),
        "on_another_release": sorted(node for node, one in runs.items() if one != step.ends_on.digest),
        "marked_bad": context.store.release_record(step.release.digest).bad_at is not None,
        "journal": journal_rows(deployment, begun),
    }


def rollout_seconds(deployment: Deployment, begun: float) -> dict[str, float]:
    """Return ``failed_s``, if a probe failed, and ``ended_s``: seconds after ``begun`` (since 1970). Pure."""
    seconds: dict[str, float] = {}
    for entry in deployment.entries:
        if deployment.broken is not None and entry.node is None and deployment.broken in entry.message:
            seconds.setdefault("failed_s", round(entry.at.timestamp() - begun, 1))
    if deployment.ended_at is not None:
        seconds["ended_s"] = round(deployment.ended_at.timestamp() - begun, 1)
    return seconds


def journal_rows(deployment: Deployment, begun: float) -> list[list[Any]]:
    """Return the deployment's journal: seconds after ``begun``, node or None, message. Pure."""
    return [
        [round(entry.at.timestamp() - begun, 1), entry.node, entry.message] for entry in deployment.entries
    ]


def find_problems(
    step: Step, row: Mapping[str, Any], brokers: DrillBrokers, level: int, used: int
) -> list[str]:
    """Return what is not as designed, a sentence each. Pure, except that it reads which Kafka a release declares.

    ``level``: what the Kafka that must run knows of ``metadata.version``. ``used``: its level before the drill.
    """
    problems = []
    if row["state"] != step.state:
        problems.append(f"the roll-out ended as {row['state']} instead of {step.state}: {row['reason']}")
    if row["marked_bad"] != (step.state == "returned"):
        problems.append("the release is marked bad" if row["marked_bad"] else "the release is not marked bad")
    if row["on_another_release"]:
        problems.append(f"recorded with another release: {', '.join(row['on_another_release'])}")
    version = kafka_version(step.ends_on)
    for node, running in brokers.processes.items():
        if running != version:
            problems.append(f"the process of {node} runs Kafka {running} instead of {version}")
        if step.ran not in row["seen"].get(node, ()):
            problems.append(f"{node} never ran Kafka {step.ran}")
        problems += answer_problems(node, brokers.answers.get(node), BrokerAnswer(level, used))
    return problems + [
        f"{work['work']}: {work['failed']} failed, {work['done']} done"
        for work in row["traffic"]
        if work["failed"] or not work["done"]
    ]


def answer_problems(node: str, answer: BrokerAnswer | None, expected: BrokerAnswer) -> list[str]:
    """Return what is wrong with a broker's answer, a sentence each. Pure."""
    if answer is None:
        return [f"{node} doesn't answer"]
    if answer != expected:
        return [f"{node} knows metadata.version {answer.known} and uses {answer.used}, not as {expected}"]
    return []


def format_step(row: Mapping[str, Any]) -> str:
    """Return what a person reads of one roll-out. Pure."""
    lines = [f"{row['state']} after {row['seconds']} s: {row['reason']}"]
    if "failed_s" in row:
        lines.append(f"a probe failed after {row['failed_s']} s; rolled back after {row['ended_s']} s")
    for node, versions in row["seen"].items():
        answer = row["answers"].get(node)
        says = f"knows metadata.version {answer['known']}, uses {answer['used']}" if answer else "no answer"
        lines.append(f"{node}: ran {' → '.join(versions) or 'nothing'}; {says}")
    lines.append(format_traffic(row["traffic"]))
    lines.append(
        f"longest gap between stored batches: {row['batches']['longest_gap_s']} s; "
        f"{row['batches']['stored']:,} trades stored"
    )
    lines += [f"NOT AS DESIGNED: {problem}" for problem in row["problems"]]
    return "\n".join(f"  {line}" for line in lines)


def has_failed(document: Mapping[str, Any]) -> bool:
    """Whether a roll-out was not as designed, or a trade is lost or doubled. Pure."""
    return any(row["problems"] for row in document["steps"]) or has_faults(document["account"])

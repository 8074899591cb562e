"""``make release-trials``: three bad releases on the running fleet; each must stop after at most one node.

Each is the known-good release with one mistake in it. ``deploy_release`` rolls it out like any other, while records
with acks=all and synthetic trades are sent. Afterwards every node must run the known-good release again.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import release_traffic
from benchmarks.harness import describe_machine, write_report
from benchmarks.release_traffic import TrafficProbe
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.releases import archive, assignment, rollout, steady_state
from kintsugi.releases.archive import Release

DAG_ID = "deploy_release"
HOLD_S = 10
RUN_S = 1500.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A mistake: in the file ``path`` of a release, ``old`` becomes ``new``. ``most``: how many nodes it may change."""

    name: str
    path: str
    old: str
    new: str
    most: int


TRIALS = (
    Trial(
        "wrong Kafka listener",
        "ansible/roles/kafka/templates/server.properties.j2",
        "\nlisteners={{ protocol }}://{{ ansible_host }}:9092",
        "\nlisteners={{ protocol }}://{{ ansible_host }}:9192",
        most=1,
    ),
    Trial(
        "wrong Cassandra heap",
        "ansible/roles/cassandra/defaults/main.yml",
        "cassandra_heap: 512m",
        "cassandra_heap: 16m",
        most=1,
    ),
    Trial(
        "a template that doesn't render",
        "ansible/roles/cassandra/templates/cassandra.yaml.j2",
        "cluster_name: {{ fleet_name }}",
        "cluster_name: {{ fleet_nam }}",
        most=0,
    ),
)


def run_trials(context: Context, report: Path | None = None) -> int:
    """Run all trials; 0 when each was stopped as designed. Raises GuardRefused without a known-good release."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    report = report or context.settings.repository / "build" / "release-trials.json"
    rows: list[dict[str, Any]] = []
    for trial in TRIALS:
        console.rule(f"[bold]{trial.name}", align="left")
        row = run_trial(context, trial)
        rows.append(row)
        _write_rows(report, rows)
        mark = "[green]✓" if row["as_designed"] else "[red]✗"
        console.print(f"{mark}[/] {row['state']}: {row['reason']}")
        console.print(
            f"  updated: {', '.join(row['touched']) or 'no node'}; {row['seconds']} s; "
            f"{format_traffic(row['traffic'])}"
        )
    return 0 if all(row["as_designed"] for row in rows) else 1


def run_trial(context: Context, trial: Trial) -> dict[str, Any]:
    """Roll out the trial's release by the DAG, with traffic; returns the row of the report."""
    good = context.store.last_known_good()
    if good is None:
        raise GuardRefused(
            "no release is known-good yet, so there is nothing to return to; roll one out first"
        )
    steady_state.await_steady(lambda: steady_state.observe_fleet(context))
    bad = build_bad_release(context, assignment.open_release(context, good.digest), trial)
    airflow = ControlPlane(context.settings).airflow
    airflow.unpause(DAG_ID)
    started = time.monotonic()
    with run_trial_traffic(context) as pulses:
        conf = {"release": bad.digest, "hold_seconds": HOLD_S, "dry_run": False, "again": True}
        run_id = airflow.trigger(DAG_ID, conf)
        airflow.await_run(DAG_ID, run_id, RUN_S)
    return {**judge_trial(context, trial, run_id, pulses), "seconds": round(time.monotonic() - started, 1)}


def build_bad_release(context: Context, good: Release, trial: Trial) -> Release:
    """Return the release ``good`` with the trial's mistake, on disk, in S3 and on record; raises KintsugiError."""
    origin = f"trial: {trial.name}, on {good.short}"
    return build_changed_release(context, good, origin, lambda tree: change_file(tree, trial))


def build_changed_release(
    context: Context, base: Release, origin: str, change: Callable[[Path], None]
) -> Release:
    """Return the release ``base`` after ``change`` of a copy of its files, on disk, in S3 and on record."""
    with tempfile.TemporaryDirectory(prefix="kintsugi-trial-") as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(base.directory, tree)
        change(tree)
        changed = archive.build_release(context.settings, tree)
    archive.store_in_s3(context, changed)
    context.store.add_release(changed.digest, origin)
    return changed


def change_file(tree: Path, trial: Trial) -> None:
    """Make the trial's mistake in the files of a release; raises KintsugiError if it doesn't fit them."""
    path = tree / trial.path
    text = path.read_text()
    if text.count(trial.old) != 1:
        raise KintsugiError(f"the trial {trial.name!r} doesn't fit {trial.path} of this release any more")
    path.chmod(0o644)
    path.write_text(text.replace(trial.old, trial.new))


def judge_trial(
    context: Context, trial: Trial, deployment: str, pulses: Sequence[TrafficProbe]
) -> dict[str, Any]:
    """Return the result, from the store and from the traffic during the trial."""
    found = context.store.read_deployment(deployment)
    runs = {node: record.digest for node, record in context.store.node_releases().items()}
    elsewhere = sorted(node for node, digest in runs.items() if digest != found.back_to)
    bad = context.store.release_record(found.digest).bad_at is not None
    touched = rollout.updated_nodes(found.steps)
    went_on = all(pulse.done and not pulse.failures for pulse in pulses)
    return {
        "trial": trial.name,
        "release": found.digest,
        "back_to": found.back_to,
        "state": found.state,
        "reason": found.reason,
        "touched": touched,
        "marked_bad": bad,
        "not_back": elsewhere,
        "traffic": [pulse.to_json() for pulse in pulses],
        "as_designed": bad and len(touched) <= trial.most and not elsewhere and went_on,
    }


@contextmanager
def run_trial_traffic(context: Context) -> Iterator[list[TrafficProbe]]:
    """Send records with acks=all, and synthetic trades if the stream runs."""
    with release_traffic.open_record_beat(context.fleet) as produce:
        beats: dict[str, tuple[float, release_traffic.Beat]] = {"acks=all": (0.1, produce)}
        if stream_driver.should_run(context):
            beats["canary"] = (5.0, lambda: _send_synthetic_trade(context))
        with release_traffic.run_traffic(beats) as pulses:
            yield pulses


def _send_synthetic_trade(context: Context) -> None:
    steady_state.verify_synthetic_trade(context)


def format_traffic(works: Sequence[dict[str, Any]]) -> str:
    return ", ".join(
        f"{work['work']}: {work['done']} done, {work['failed']} failed, at most {work['longest_s']} s between two"
        for work in works
    )


def _write_rows(report: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_report(report, {"machine": describe_machine(), "trials": list(rows)})

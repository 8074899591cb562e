"""``make demo``: from nothing to a running pipeline, two recovered nodes and the reconciliation, on one screen."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.chaos import experiment
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.dag_ids import BASELINE_DAG, DRIFT_DAG, FIRST_DAGS, INGEST_DAG
from kintsugi.core.errors import StepFailed
from kintsugi.core.processes import wait_until
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.installation.sign_in import sign_in_text
from kintsugi.installation.unpause import watch_dags
from kintsugi.installation.up import start_installation
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import summarize_report
from kintsugi.pipeline.stream_lag import read_snapshot
from kintsugi.sampledata.generator import generate_day, live_parts

if TYPE_CHECKING:
    from rich.console import Console

    from kintsugi.infra.airflow_client import Airflow
    from kintsugi.pipeline.reconcile.progress import FileKey

DAY = date(2024, 10, 8)
SEED = 20241008
TRADES = 40_000
BAD_ROWS = 12
VICTIMS = ("cassandra-2", "kafka-2")
LIVE_ROWS = 1_500  # trades of a part file
LIVE_PERIOD_S = 5.0


def run_demo(
    settings: Settings, *, trades: int = TRADES, victims: Sequence[str] = VICTIMS, report: Path | None = None
) -> int:
    """Run the demo; 0 when the nodes are recovered and the reconciliation balances."""
    from rich.console import Console

    report = report or settings.repository / "build" / "demo.json"
    shown = Demo(settings, Console(soft_wrap=True, highlight=False), report, trades).run_steps(victims)
    return 0 if shown["complete"] else 1


@dataclass
class Demo:
    """One run: it prints to ``console`` and writes ``report``; ``steps`` collects the seconds of each step."""

    settings: Settings
    console: Console
    report: Path
    trades: int = TRADES
    steps: dict[str, float] = field(default_factory=dict)

    def run_steps(self, victims: Sequence[str]) -> dict[str, Any]:
        """Run all steps; returns (and writes) the content of ``build/demo.json``. Raises StepFailed."""
        started = time.monotonic()
        with self.report_step("control plane and fleet"):
            start_installation(self.settings, self.console)
        context, airflow = Context.from_environment(), ControlPlane(self.settings).airflow
        with self.report_step("a sample trading day into S3"):
            self.upload_day(context)
        with self.report_step("DAGs: baseline, ingest, stream, and a watch for every node"):
            airflow.unpause(*FIRST_DAGS, *watch_dags(context.fleet))
        with self.report_step("the baseline: what is usual, from the day before"):
            self.await_baseline(airflow)
        with self.report_step("trades flow from S3 to Cassandra"):
            airflow.unpause(INGEST_DAG)
            self.await_flow(context)
        airflow.unpause("watch_flow")  # only now: a stream that starts for the first time needs no watch
        with live_feed(context):
            recoveries = [self.break_and_recover(context, name) for name in victims]
        with self.report_step("the reconciliation"):
            counted = reconcile_when_quiet(self.settings, deadline_s=120)
        airflow.unpause(DRIFT_DAG)
        report = {
            **summarize_report(counted),
            "recoveries": recoveries,
            "steps": self.steps,
            "seconds": round(time.monotonic() - started, 1),
        }
        self.write_report(report)
        self.print_result(report)
        return report

    @contextmanager
    def report_step(self, name: str) -> Iterator[None]:
        """Print the name of the step, and how long it took."""
        self.console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        yield
        self.steps[name] = round(time.monotonic() - started, 1)
        self.console.print(f"[green]✓[/] {name} [dim]{self.steps[name]:.1f} s")

    def upload_day(self, context: Context) -> None:
        """Generate the seeded day and put it into S3; the same file again is no new object to the ledger."""
        out = self.report.parent / "sample"
        made = generate_day(out, day=DAY, seed=SEED, trades=self.trades, parts=2, bad_rows=BAD_ROWS)
        s3 = context.s3(S3Purpose.DELIVERY)
        for path in (*made.eod_files, *made.trade_files):
            key = path.relative_to(out).as_posix()
            s3.upload_file(str(path), BUCKET, key)
            self.console.print(f"  s3://{BUCKET}/{key} [dim]{path.stat().st_size:,} bytes")
        self.console.print(
            f"  {made.trades:,} trades, {made.bad_rows} malformed rows, {made.blocks} injected unusual trades "
            f"[dim](ground truth: {made.truth_file})"
        )

    def await_baseline(self, airflow: Airflow, deadline_s: float = 240) -> None:
        """Wait until a baseline is built: a trade that is stored before that is never found unusual."""

        def has_baseline() -> bool:
            return any(run["state"] == "success" for run in airflow.runs(BASELINE_DAG))

        with self.console.status("Spark reads the end-of-day file"):
            if not wait_until(has_baseline, deadline_s, pause=0.5):
                raise StepFailed(f"no baseline after {deadline_s:.0f} s; look at {BASELINE_DAG} in Airflow")

    def await_flow(self, context: Context, deadline_s: float = 240) -> None:
        """Wait until the day's files are ingested and the stream has stored them."""
        until = time.monotonic() + deadline_s
        with self.console.status("waiting for the first trades") as status:
            while (waiting := describe_backlog(context)) is not None:
                if time.monotonic() > until:
                    raise StepFailed(
                        f"trades don't flow after {deadline_s:.0f} s: {waiting}; see `make status`"
                    )
                status.update(waiting)
                time.sleep(1)

    def break_and_recover(self, context: Context, name: str, standstill_s: float = 300) -> dict[str, Any]:
        """Kill one node with its volume and print its incident as it grows; returns its figures."""
        with self.report_step(f"pull the plug of {name}, its volume too"):
            t0 = experiment.pull_plug(context, name, run="demo", lose_volume=True)
            self.follow_incident(context, name, datetime.fromisoformat(t0), standstill_s)
            figures = experiment.wait_for_recovery(context, name, t0, deadline_s=30)
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in figures["phases"].items())
        self.console.print(
            f"  detected after [bold]{figures['detected_s']} s[/], serving again after "
            f"[bold]{figures['repaired_s']} s[/], its data whole after [bold]{figures['consistent_s']} s[/] "
            f"[dim]({phases})"
        )
        return {**figures, "fault": "volume_lost"}

    def follow_incident(self, context: Context, name: str, since: datetime, standstill_s: float) -> None:
        """Print each new line of the node's incident until it is closed.

        Raises StepFailed when its journal has had no new line for so long.
        """
        shown, until = 0, time.monotonic() + standstill_s
        while time.monotonic() < until:
            incident = experiment.incident_since(context, name, since)
            if incident is not None:
                for entry in incident.entries[shown:]:
                    if "mark" not in entry.data or entry.data["mark"] == "failed":
                        passed = (entry.at - since).total_seconds()
                        self.console.print(
                            f"  [dim]{passed:6.1f} s[/] [cyan]{entry.step:10}[/] {entry.message}"
                        )
                if len(incident.entries) > shown:
                    shown, until = len(incident.entries), time.monotonic() + standstill_s
                if incident.closed_at is not None:
                    return
            time.sleep(0.5)
        raise StepFailed(
            f"{name} isn't healed, and its repair stood still for {standstill_s:.0f} s; look at watch_{name} in Airflow"
        )

    def write_report(self, report: dict[str, Any]) -> None:
        """Write the report."""
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.write_text(json.dumps(report, indent=2) + "\n")

    def print_result(self, report: dict[str, Any]) -> None:
        """Print the reconciliation as a table, Airflow's address, and how to stop everything."""
        from rich.table import Table

        table = Table(title="Reconciliation", show_header=False)
        for name in ("read", "accepted", "rejected", "duplicates", "produced", "in_kafka", "stored"):
            table.add_row(name.replace("_", " "), f"{report[name]:,}")
        for reason, count in report["rejected_by_reason"].items():
            table.add_row(f"  rejected: {reason}", f"{count:,}")
        for name in ("lost", "doubled", "wrong_derived"):
            table.add_row(
                f"[bold]{name.replace('_', ' ')}",
                f"[bold {'red' if report[name] else 'green'}]{report[name]}",
            )
        self.console.print(table)
        self.console.print(sign_in_text(self.settings))
        self.console.print(
            f"All of it took {report['seconds']:.0f} s and keeps running: `make status` shows it, `make down` ends it."
        )


def describe_backlog(context: Context) -> str | None:
    """Return what the pipeline still waits for, as a sentence; None when everything in S3 is stored."""
    now = read_snapshot(context.settings)
    if now.pending:
        return f"{now.pending} files to ingest"
    if now.lag is None:
        return "Kafka doesn't tell the stream's lag"
    return f"{now.lag:,} trades in Kafka that aren't in Cassandra yet" if now.lag else None


@contextmanager
def live_feed(
    context: Context, rows: int = LIVE_ROWS, period_s: float = LIVE_PERIOD_S
) -> Iterator[list[FileKey]]:
    """Put trades into S3 while the block runs: a part file of ``rows`` trades each ``period_s`` seconds.

    Yields a growing list of what was put there, as (key, ETag).
    """
    from botocore.exceptions import BotoCoreError, ClientError

    stop = threading.Event()
    # A feed begun later must not repeat the keys of an earlier one.
    parts = live_parts(day=DAY, seed=SEED, rows=rows, first=int(time.time()) % 1_000_000, seconds=period_s)

    fed: list[FileKey] = []

    def put_parts() -> None:
        s3, due, part = context.s3(S3Purpose.DELIVERY), time.monotonic() + period_s, None
        while not stop.wait(due - time.monotonic()):
            if part is not None:  # it was refused or didn't arrive: a rotation may have replaced the key
                s3 = context.s3(S3Purpose.DELIVERY)
            part = part or next(parts)
            with suppress(BotoCoreError, ClientError):  # while S3 is unreachable the part waits
                fed.append((part.key, s3.put_object(Bucket=BUCKET, Key=part.key, Body=part.body)["ETag"]))
                part = None
            # By the clock, because a part takes time to generate. Parts that a busy machine missed are not sent later.
            due = max(due + period_s, time.monotonic())

    thread = threading.Thread(target=put_parts, name="live feed", daemon=True)
    thread.start()
    try:
        yield fed
    finally:
        stop.set()
        thread.join()

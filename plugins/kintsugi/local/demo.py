"""``make demo``: the whole story on one screen, from nothing to two healed servers and the account."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from kintsugi.chaos import experiment
from kintsugi.errors import StepFailed
from kintsugi.local.airflow import Airflow
from kintsugi.local.control_plane import ControlPlane
from kintsugi.recovery.case import Runtime, runtime
from kintsugi.settings import BUCKET, Settings
from kintsugi.trades import flow

if TYPE_CHECKING:
    from rich.console import Console

    from kintsugi.trades.reconcile import Account

DAY = date(2024, 10, 8)
SEED = 20241008
TRADES = 40_000
BAD_ROWS = 12
LIVE_ROWS = 1_000  # a part file
LIVE_PERIOD_S = 4.0
FLOW_DAGS = ("build_baseline", "ingest_trades", "stream_trades", "watch_flow")


@dataclass
class Demo:
    """One run of the demo; ``steps`` holds the seconds of each step by name."""

    settings: Settings
    console: Console
    trades: int = TRADES
    steps: dict[str, float] = field(default_factory=dict)

    def run(self, victims: list[str] | None = None) -> dict[str, Any]:
        """Everything in order; returns what is written to ``build/demo.json``. Raises StepFailed."""
        from kintsugi.local.up import up

        started = time.monotonic()
        with self.step("fleet and control plane"):
            up(self.settings, self.console)
        doors = runtime()
        airflow = ControlPlane(self.settings).airflow
        with self.step("sample trading day into S3"):
            self.upload_day(doors)
        with self.step("DAGs: baseline, ingest, stream"):
            self.start_dags(airflow, doors)
        with self.step("trades flow"):
            self.await_flow(doors)
        victims = victims or ["cassandra-2", "kafka-2"]
        with self.live_feed(doors):
            recoveries = [self.break_and_heal(doors, name) for name in victims]
        with self.step("account"):
            account = self.account(doors)
        report = {**account.to_json(), "recoveries": recoveries, "steps": self.steps}
        report["seconds"] = round(time.monotonic() - started, 1)
        self.write(report)
        self.farewell(report)
        if account.lost or account.extra or account.doubled:
            raise StepFailed("the account doesn't balance; see build/demo.json and run `make reconcile`")
        return report

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what begins, and how long it took."""
        self.console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        yield
        self.steps[name] = round(time.monotonic() - started, 1)
        self.console.print(f"[green]✓[/] {name} [dim]{self.steps[name]:.1f} s")

    def upload_day(self, doors: Runtime) -> None:
        """Generate the seeded day and put it into S3; the same files again are no new objects."""
        from kintsugi.trades.generator import generate_day

        out = self.settings.repository / "build" / "sample"
        made = generate_day(out, day=DAY, seed=SEED, trades=self.trades, parts=2, bad_rows=BAD_ROWS)
        s3 = doors.s3()
        for path in [*made.eod_files, *made.trade_files]:
            folder = "eod" if path in made.eod_files else f"trades/{DAY.isoformat()}"
            s3.upload_file(str(path), BUCKET, f"{folder}/{path.name}")
            self.console.print(f"  s3://{BUCKET}/{folder}/{path.name} [dim]{path.stat().st_size:,} bytes")
        self.console.print(f"  ground truth of the planted unusual trades: {made.truth_file}")

    def start_dags(self, airflow: Airflow, doors: Runtime) -> None:
        """Unpause the flow's DAGs and every watch."""
        for dag_id in [*FLOW_DAGS, *(f"watch_{name}" for name in doors.fleet.nodes)]:
            airflow.unpause(dag_id)
        self.console.print(f"  unpaused {', '.join(FLOW_DAGS)} and a watch for each of {len(doors.fleet.nodes)} nodes")

    def await_flow(self, doors: Runtime, deadline_s: float = 180) -> None:
        """Wait until the files are in Cassandra, and show how it goes."""
        until = time.monotonic() + deadline_s
        with self.console.status("  waiting for the first trades"):
            while True:
                now = flow.snapshot(doors.settings)
                if now.stored and now.lag == 0 and not now.pending:
                    break
                if time.monotonic() > until:
                    raise StepFailed(f"trades don't flow after {deadline_s:.0f} s: {now}; see `make status`")
                time.sleep(1)
        self.console.print(f"  {now.stored:,} trades in Cassandra, lag {now.lag}")

    @contextmanager
    def live_feed(self, doors: Runtime) -> Iterator[None]:
        """Keep trades coming into S3, a part file each few seconds, while the block runs."""
        from kintsugi.trades.generator import live_parts

        stop = threading.Event()
        parts = live_parts(day=DAY, seed=int(time.time()), rows=LIVE_ROWS)

        def feed() -> None:
            s3 = doors.s3()
            while not stop.is_set():
                name, body = next(parts)
                s3.put_object(Bucket=BUCKET, Key=f"trades/{DAY.isoformat()}/{name}", Body=body)
                stop.wait(LIVE_PERIOD_S)

        thread = threading.Thread(target=feed, name="live feed", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def break_and_heal(self, doors: Runtime, name: str, deadline_s: float = 300) -> dict[str, Any]:
        """Pull one node's plug, volume included, and print its incident as it unfolds."""
        with self.step(f"pull the plug of {name}, its volume too"):
            t0 = experiment.pull_plug(doors, name, run="demo", lose_volume=True)
            self.follow(doors, name, datetime.fromisoformat(t0), deadline_s)
            figures = experiment.wait_for_healing(doors, name, t0, deadline_s=30)
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in figures["phases"].items())
        self.console.print(
            f"  detected after {figures['detected_s']} s, serving again after "
            f"[bold]{figures['repaired_s']} s[/], whole after {figures['consistent_s']} s [dim]({phases})"
        )
        return {**figures, "fault": "volume_lost"}

    def follow(self, doors: Runtime, name: str, since: datetime, deadline_s: float) -> None:
        """Print each new line of the node's incident until it is closed."""
        shown, until = 0, time.monotonic() + deadline_s
        while time.monotonic() < until:
            incident = experiment.incident_since(doors, name, since)
            for entry in incident.entries[shown:] if incident else ():
                if entry.data.get("mark") not in ("start", "end"):
                    passed = (entry.at - since).total_seconds()
                    self.console.print(f"  [dim]{passed:6.1f} s[/] [cyan]{entry.step:10}[/] {entry.message}")
            if incident is not None:
                shown = len(incident.entries)
                if incident.closed_at is not None:
                    return
            time.sleep(0.5)
        raise StepFailed(f"{name} was not healed within {deadline_s:.0f} s; look at watch_{name} in Airflow")

    def account(self, doors: Runtime) -> Account:
        """Compare what the files hold with what Cassandra holds, by identity."""
        from kintsugi.trades.reconcile import reconcile_when_quiet

        return reconcile_when_quiet(doors.settings, deadline_s=120)

    def write(self, report: dict[str, Any]) -> None:
        path = self.settings.repository / "build" / "demo.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")

    def farewell(self, report: dict[str, Any]) -> None:
        """The account as a table, the recoveries, and where to go from here."""
        from rich.table import Table

        table = Table(title="The account", show_header=False)
        for name in ("read", "accepted", "rejected", "duplicates", "produced", "stored", "lost", "doubled"):
            value = report[name]
            table.add_row(name, str(value))
        self.console.print(table)
        plane = self.settings.fleet.control_plane
        self.console.print(
            f"Airflow: [bold]http://{plane.address}:{plane.airflow_port}[/]  user [bold]admin[/]  "
            f"password in {self.settings.secrets / 'airflow-admin'}\n"
            f"All of it took {report['seconds']:.0f} s and keeps running; `make status` shows it, `make down` ends it."
        )



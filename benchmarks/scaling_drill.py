"""``make scaling-drill``: add a node of each role under 1,000 trades a second, and remove them again.

1. 1,000 trades a second go through S3. BASELINE_S seconds of it are measured first.
2. One node of each role whose number can change is added to the fleet file, and `kintsugi scale-fleet` runs.
3. The fleet file is written as it was, and `kintsugi scale-fleet` runs again.
4. Every trade is reconciled.

No incident may be opened, and no trade may be lost or doubled. The longest time between two stored batches is reported
for each part, by the log of the streaming driver. Killed at any time, the drill leaves a fleet that
`kintsugi scale-fleet` brings back: the error says how.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from benchmarks.mttr import await_pace
from benchmarks.restore_drill import await_flow, describe_window, read_driver_log
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Fleet, Node
from kintsugi.core.settings import Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import has_faults, summarize_report
from kintsugi.scaling.plan import SCALED_ROLES

ROWS, PERIOD_S = 1000, 1.0
BASELINE_S = 60.0
RECONCILE_DEADLINE_S = 600.0


@dataclass
class ScalingDrill(Drill):
    """One drill. ``fleet_file``: the text of the fleet file, as it was before."""

    fleet_file: str

    @property
    def fleet_path(self) -> Path:
        return self.settings.repository / "fleet.yaml"

    def describe_way_back(self) -> str:
        """Return how the fleet gets its former size."""
        return "fleet.yaml is as it was. Run `make scale-fleet`: it removes the drill's nodes"

    def run(self, context: Context) -> None:
        """Measure, grow and shrink; raises StepFailed when the stream doesn't keep up or the fleet can't be changed."""
        await_flow(self.settings)
        await_pace(self.settings, round(ROWS / PERIOD_S))
        begun = time.time()
        time.sleep(BASELINE_S)
        self.note_window("before", begun)
        with self.telling_the_way_back():
            nodes = additional_nodes(context.fleet)
            with self.changed_fleet_file(nodes):
                self.scale("grow", f"add {', '.join(node.name for node in nodes)}")
            await_steady_state(context)  # the guards refuse a change while a node is too busy to answer
            self.scale("shrink", "remove them again")

    @contextmanager
    def changed_fleet_file(self, nodes: list[Node]) -> Iterator[None]:
        """Declare ``nodes`` too while the block runs."""
        self.fleet_path.write_text(declare_nodes(self.fleet_file, nodes))
        try:
            yield
        finally:
            self.fleet_path.write_text(self.fleet_file)

    def scale(self, name: str, text: str) -> None:
        """Run `kintsugi scale-fleet` and report how long it took; raises StepFailed if it failed."""
        self.console.print(text, markup=False)
        begun = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "kintsugi.cli", "scale-fleet"], cwd=self.settings.repository, check=False
        )
        if done.returncode:
            raise StepFailed(f"`kintsugi scale-fleet` ended with {done.returncode}: its reason is above")
        self.note_window(name, begun)

    def note_window(self, name: str, begun: float) -> None:
        """Report trades stored and the longest gap between stored batches, from ``begun`` until now."""
        window = describe_window(read_driver_log(self.settings), begun, time.time())
        self.note(
            f"{name}: {window['seconds']:.0f} s; {window['stored'] / window['seconds']:,.0f} trades a second stored; "
            f"longest gap between stored batches {window['longest_gap_s']} s",
            **{name: window},
        )


def run_scaling_drill(settings: Settings, *, report: Path | None = None) -> int:
    """Run the drill; 0 if no incident was opened and no trade is lost or doubled.

    Raises GuardRefused if the fleet file declares other nodes than the fleet has, StepFailed if a part failed.
    """
    context = Context.from_environment()
    if list(settings.declared_fleet.nodes) != list(settings.fleet.nodes):
        raise GuardRefused(
            "the fleet file declares other nodes than the fleet has; run `make scale-fleet` first"
        )
    path = report or settings.repository / "build" / "scaling-drill.json"
    drill = ScalingDrill(settings, make_console(), path, (settings.repository / "fleet.yaml").read_text())
    unpause_dags(context)
    await_steady_state(context)
    started = datetime.now(UTC)
    drill.note(f"{ROWS / PERIOD_S:,.0f} trades a second", machine=describe_machine(), rate=ROWS / PERIOD_S)
    with live_feed(context, rows=ROWS, period_s=PERIOD_S):
        drill.run(context)
    counted = summarize_report(reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S))
    drill.note_account(context, counted, started)
    return 1 if has_failed(drill.document) else 0


def has_failed(document: Mapping[str, Any]) -> bool:
    """Whether a recovery was started, or a trade is lost or doubled. Pure."""
    return bool(document["incidents"] or has_faults(document["account"]))


def additional_nodes(fleet: Fleet) -> list[Node]:
    """Return one more node of each role whose number can change, like the role's last one. Pure.

    Its number is the next one, and its address the next one that no node has.
    """
    nodes = []
    for role in SCALED_ROLES:
        last = max(fleet.of(role), key=lambda node: node.index)
        address = ipaddress.ip_address(last.address)
        while str(address) in {node.address for node in fleet}:
            address += 1
        name = f"{last.name.rpartition('-')[0]}-{last.index + 1}"
        nodes.append(replace(last, name=name, address=str(address), protected=False))
    return nodes


def declare_nodes(fleet_file: str, nodes: list[Node]) -> str:
    """Return the text of the fleet file with ``nodes`` at the head of its list ``nodes``. Pure.

    Raises StepFailed if the file has no such list.
    """
    found = re.search(r"^nodes:[^\n]*\n(?:\s*#[^\n]*\n)*(?P<indent> *)- ", fleet_file, re.MULTILINE)
    if found is None:
        raise StepFailed("fleet.yaml has no list `nodes:` that the drill could add to")
    lines = "".join(
        f"{found['indent']}- {{name: {node.name}, role: {node.role}, address: {node.address}"
        + (f", zone: {node.zone}}}\n" if node.zone else "}\n")
        for node in nodes
    )
    at = found.start("indent")
    return fleet_file[:at] + lines + fleet_file[at:]

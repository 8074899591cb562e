"""``python -m benchmarks <command>``: commands that measure the pipeline, or break it on purpose.

They import the product; the product never imports them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks.chaos_campaign
import benchmarks.crash_test
import benchmarks.crash_test_plan
import benchmarks.demo
import benchmarks.false_positive_test
import benchmarks.fault_matrix_run
import benchmarks.fleet_simulation.run
import benchmarks.mttr
import benchmarks.release_trials
import benchmarks.restore_drill
import benchmarks.rotation_test
import benchmarks.scaling_drill
import benchmarks.sequential_recovery
import benchmarks.signals
import benchmarks.stall_test
import benchmarks.throughput.run
import benchmarks.throughput.soak
import benchmarks.version_drill.run
from benchmarks.crash_test_plan import STEPS, Victim
from benchmarks.throughput.context import RIVAL_MESSAGES
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.installation.command_line import (
    add_command,
    current_words,
    parse_count,
    parse_role,
    parse_seed,
    run_command,
)
from kintsugi.operations.context import Context

RENAMED = {
    "calm": "false-positive-test",
    "chaos_campaign": "chaos-campaign",
    "faults": "fault-matrix",
    "release_trials": "release-trials",
    "rounds": "sequential-recovery",
    "soak": "soak-kill",
    "stall_test": "stall-test",
    "walk": "crash-test",
}
"""Commands that had another name in the last release."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 1: failed, with the reason in a line on stderr; 2: wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    return run_command(_build_parser().parse_args(current_words("python -m benchmarks", words, RENAMED)))


def demo(options: argparse.Namespace, settings: Settings) -> int:
    """Ingest a day of trades, kill two nodes, wait until they are recovered, and reconcile every trade."""
    return benchmarks.demo.run_demo(
        settings,
        trades=options.trades,
        victims=options.victim or benchmarks.demo.VICTIMS,
        report=options.report,
    )


def sequential_recovery(options: argparse.Namespace, settings: Settings) -> int:
    """Kill every node and its volume in turn; report each recovery and reconcile every trade."""
    return benchmarks.sequential_recovery.run_rounds(
        settings, rounds=options.rounds, seed=options.seed, report=options.report
    )


def bench(options: argparse.Namespace, settings: Settings) -> int:
    """Measure throughput, ceiling, latency, a spike, growth and a rival of the running pipeline."""
    _needs_processes(settings)
    return benchmarks.throughput.run.run_sections(
        settings,
        only=options.only,
        seconds=options.seconds,
        seed=options.seed,
        report=options.report,
        rival_messages=options.rival_messages,
    )


def soak_kill(options: argparse.Namespace, settings: Settings) -> int:
    """Kill the streaming driver at random under load; compare its tables with an undisturbed run."""
    _needs_processes(settings)
    return benchmarks.throughput.soak.run_soak(
        settings, kills=options.kills, seed=options.seed, report=options.report
    )


def signals(options: argparse.Namespace, settings: Settings) -> int:
    """Measure precision, recall and false alerts of the four signals on injected behaviour."""
    return benchmarks.signals.run_signals(
        levels=options.level or [], seeds=options.seed or [], trades=options.trades, report=options.report
    )


def fleet_simulation(options: argparse.Namespace, settings: Settings) -> int:
    """Measure watches, guards and Airflow for fleets of 10, 100 and 1,000 stand-in nodes; needs no fleet."""
    return benchmarks.fleet_simulation.run.run_fleet_simulation(
        only=options.only, sizes=options.nodes or (), seed=options.seed, report=options.report
    )


def fault_matrix(options: argparse.Namespace, settings: Settings) -> int:
    """Run the fault matrix: every scenario in turn; report its outcome and reconcile every trade."""
    return benchmarks.fault_matrix_run.run_fault_matrix(
        settings, scenarios=options.scenario, report=options.report
    )


def chaos_campaign(options: argparse.Namespace, settings: Settings) -> int:
    """Inject 100 faults in random order, a quarter in pairs; report kills of live nodes and losses."""
    return benchmarks.chaos_campaign.run_campaign(
        settings, injections=options.injections, seed=options.seed, report=options.report
    )


def stall_test(options: argparse.Namespace, settings: Settings) -> int:
    """Stall whole roles and the fleet for 6 to 60 s; only the longest stall may end in a kill."""
    return benchmarks.stall_test.run_stall_test(
        settings, seconds=options.seconds or (), report=options.report
    )


def mttr(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the mean time to recovery under load, and compare it with starts by hand."""
    return benchmarks.mttr.run_repairs(
        settings,
        repairs=options.repairs,
        roles=options.role or (),
        rate=options.rate,
        seed=options.seed,
        report=options.report,
    )


def crash_test(options: argparse.Namespace, settings: Settings) -> int:
    """Kill the recovery itself at every step; each incident must still be finished exactly once."""
    _needs_processes(settings)
    victims = [Victim(name) for name in options.victim or Victim]
    killings = benchmarks.crash_test_plan.plan_killings(
        steps=options.step or STEPS, victims=victims, all_=options.all
    )
    return benchmarks.crash_test.run_crash_test(settings, killings=killings, report=options.report)


def false_positive_test(options: argparse.Namespace, settings: Settings) -> int:
    """Pause nodes for up to 5 s under load; no recovery may start."""
    return benchmarks.false_positive_test.run_false_positive_test(
        settings, minutes=options.minutes, seed=options.seed, report=options.report
    )


def release_trials(options: argparse.Namespace, settings: Settings) -> int:
    """Roll out three bad releases; each must be stopped after at most one node."""
    return benchmarks.release_trials.run_trials(Context.from_environment())


def rotation_test(options: argparse.Namespace, settings: Settings) -> int:
    """Renew certificates and passwords at 1000 trades a second; report the longest gap in what is stored."""
    return benchmarks.rotation_test.run_rotation_test(settings, report=options.report)


def restore_drill(options: argparse.Namespace, settings: Settings) -> int:
    """Lose the control plane while the fleet streams, restore it, and let it recover a node."""
    _needs_processes(settings)
    return benchmarks.restore_drill.run_restore_drill(settings, node=options.node, report=options.report)


def scaling_drill(options: argparse.Namespace, settings: Settings) -> int:
    """Add a broker, a Cassandra node and a Spark worker at 1,000 trades a second, and remove them again."""
    _needs_processes(settings)
    return benchmarks.scaling_drill.run_scaling_drill(settings, report=options.report)


def version_drill(options: argparse.Namespace, settings: Settings) -> int:
    """Raise Kafka's version by a release that fails and by one that holds, while trades come in."""
    _needs_processes(settings)
    return benchmarks.version_drill.run.run_version_drill(settings, report=options.report)


def _needs_processes(settings: Settings) -> None:
    """Raise KintsugiError where processes can't be observed from outside: they are measured, or killed, by id."""
    environment = settings.fleet.environment
    if environment != "local":
        raise KintsugiError(
            f"this looks at processes from outside, which the environment {environment!r} doesn't show: "
            "run it in the environment 'local'"
        )


def _add_fleet_simulation(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    simulated = add_command(commands, fleet_simulation)
    simulated.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        help="parts to measure, separated by commas: probes, guards, dags; default: all",
    )
    simulated.add_argument(
        "--nodes",
        action="append",
        type=parse_fleet_size,
        help="size of a fleet, 10 to 1000; may be repeated; default: 10, 100 and 1000",
    )
    simulated.add_argument(
        "--seed", type=parse_seed, default=benchmarks.fleet_simulation.run.SEED, help="default: %(default)s"
    )
    simulated.add_argument(
        "--report",
        type=Path,
        default=benchmarks.fleet_simulation.run.REPORT,
        help="default: %(default)s",
    )


def parse_fleet_size(text: str) -> int:
    """Return the number of nodes of a simulated fleet; raises argparse's error for fewer than 10 or more than 1000."""
    size = parse_count(text)
    if not 10 <= size <= 1000:
        raise argparse.ArgumentTypeError(f"a simulated fleet has 10 to 1000 nodes, not {size}")
    return size


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the pipeline, or break it on purpose, on the running fleet.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    add_command(commands, release_trials)
    measured = add_command(commands, bench)
    measured.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[],
        help="sections to measure, separated by commas; default: all",
    )
    measured.add_argument(
        "--seconds", type=float, default=185, help="seconds of sustained load end to end; default: 185"
    )
    measured.add_argument(
        "--rival-messages",
        type=parse_count,
        default=RIVAL_MESSAGES,
        help=f"messages that the stream and its rival drain; default: {RIVAL_MESSAGES}",
    )
    disturbed = add_command(commands, soak_kill)
    disturbed.add_argument("--kills", type=int, default=20, help="number of kills; default: 20")
    for seeded in (measured, disturbed):
        seeded.add_argument("--seed", type=parse_seed, help="seed of the data; default: the current time")
        seeded.add_argument("--report", type=Path, help="default: build/<command>.json")
    measured = add_command(commands, signals)
    measured.add_argument(
        "--level", action="append", choices=("easy", "standard", "hard"), help="may be repeated; default: all"
    )
    measured.add_argument(
        "--seed", action="append", type=parse_seed, help="may be repeated; default: the held-out seeds"
    )
    measured.add_argument(
        "--trades", type=parse_count, default=200_000, help="trades of a day; default: 200000"
    )
    measured.add_argument(
        "--report", type=Path, default=Path("build/signals.json"), help="default: build/signals.json"
    )
    _add_fleet_simulation(commands)
    told_whole = add_command(commands, demo)
    told_whole.add_argument(
        "--trades", type=parse_count, default=40_000, help="trades of the sample day; default: 40000"
    )
    told_whole.add_argument("--victim", action="append", help="a node to kill; may be repeated")
    all_nodes = add_command(commands, sequential_recovery)
    all_nodes.add_argument(
        "--rounds", type=parse_count, default=2, help="number of rounds over all nodes; default: 2"
    )
    all_nodes.add_argument("--seed", type=int, help="seed of the order; default: the current time")
    table = add_command(commands, fault_matrix)
    table.add_argument(
        "scenario", nargs="*", help="name of a scenario, or of a fault for all its scenarios; default: all"
    )
    campaign = add_command(commands, chaos_campaign)
    campaign.add_argument(
        "--injections", type=parse_count, default=100, help="number of injections; default: 100"
    )
    campaign.add_argument("--seed", type=int, help="seed of the order; default: the current time")
    stalled = add_command(commands, stall_test)
    stalled.add_argument(
        "--seconds",
        action="append",
        type=float,
        help="length of a stall; may be repeated; default: 6, 12, 17, 24 and 60",
    )
    repaired = add_command(commands, mttr)
    repaired.add_argument(
        "--repairs", type=parse_count, default=12, help="recoveries of each role; default: 12"
    )
    repaired.add_argument(
        "--role",
        action="append",
        type=parse_role,
        choices=list(Role),
        help="may be repeated; results of other roles stay in the report; default: all",
    )
    repaired.add_argument("--rate", type=parse_count, default=1000, help="trades per second; default: 1000")
    repaired.add_argument(
        "--seed", type=int, help="seed of the order of the nodes; default: the current time"
    )
    walked = add_command(commands, crash_test)
    walked.add_argument(
        "--step", action="append", choices=STEPS, help="step of the recovery; may be repeated; default: all"
    )
    walked.add_argument(
        "--victim", action="append", choices=list(Victim), help="what to kill; may be repeated; default: all"
    )
    walked.add_argument("--all", action="store_true", help="kill every victim at every step")
    calmed = add_command(commands, false_positive_test)
    calmed.add_argument("--minutes", type=float, default=60, help="length of the test; default: 60")
    calmed.add_argument("--seed", type=int, help="seed of the pauses; default: the current time")
    rotated = add_command(commands, rotation_test)
    restored = add_command(commands, restore_drill)
    restored.add_argument(
        "--node", default=benchmarks.restore_drill.NODE, help="node to switch off; default: %(default)s"
    )
    scaled = add_command(commands, scaling_drill)
    raised = add_command(commands, version_drill)
    reporting = (told_whole, all_nodes, table, campaign, stalled, repaired, walked, calmed, rotated, restored)
    for reported in (*reporting, scaled, raised):
        reported.add_argument("--report", type=Path, help="default: build/<command>.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks <command>``: what measures the pipeline, and what breaks it on purpose.

It stands beside the product: it imports the product, and the product never imports it.
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
import benchmarks.mttr
import benchmarks.release_trials
import benchmarks.sequential_recovery
import benchmarks.signals
import benchmarks.stall_test
import benchmarks.throughput.run
import benchmarks.throughput.soak
from benchmarks.crash_test_plan import STEPS, Victim
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.installation.command_line import add_command, count, role, run_command, seed
from kintsugi.operations.context import Context


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 1: it failed, and said why in a line on stderr; 2: wrong usage."""
    return run_command(_parser().parse_args(arguments))


def demo(options: argparse.Namespace, settings: Settings) -> int:
    """Show everything: a day of trades, two plugs pulled, two nodes healed, the account."""
    return benchmarks.demo.run_demo(
        settings,
        trades=options.trades,
        victims=options.victim or benchmarks.demo.VICTIMS,
        report=options.report,
    )


def rounds(options: argparse.Namespace, settings: Settings) -> int:
    """Pull every node's plug in turn, twice, on the running fleet; report each repair and the account."""
    return benchmarks.sequential_recovery.run_rounds(
        settings, rounds=options.rounds, seed=options.seed, report=options.report
    )


def bench(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the running pipeline: rates, ceiling, latency, spike, growth; writes build/bench.json and .png."""
    _needs_processes(settings)
    return benchmarks.throughput.run.run_sections(
        settings, only=options.only, seconds=options.seconds, seed=options.seed, report=options.report
    )


def soak(options: argparse.Namespace, settings: Settings) -> int:
    """Kill the streaming driver at random while trades flow; compare its tables with an undisturbed run's."""
    _needs_processes(settings)
    return benchmarks.throughput.soak.run_soak(
        settings, kills=options.kills, seed=options.seed, report=options.report
    )


def signals(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the signals on planted behaviour: precision, recall, false alerts; a table, a plot, a report."""
    return benchmarks.signals.run_signals(
        levels=options.level or [], seeds=options.seed or [], trades=options.trades, report=options.report
    )


def faults(options: argparse.Namespace, settings: Settings) -> int:
    """Run the table of faults on the running fleet; report each scenario and the account."""
    return benchmarks.fault_matrix_run.run_fault_matrix(
        settings, scenarios=options.cell, report=options.report
    )


def chaos_campaign(options: argparse.Namespace, settings: Settings) -> int:
    """Inject 100 faults in random order on the running fleet, a quarter two at once; report live kills and losses."""
    return benchmarks.chaos_campaign.run_campaign(
        settings, injections=options.injections, seed=options.seed, report=options.report
    )


def stall_test(options: argparse.Namespace, settings: Settings) -> int:
    """Let whole roles and the fleet stand still for 6 to 60 s; all but the longest must end without a kill."""
    return benchmarks.stall_test.run_stall_test(
        settings, seconds=options.seconds or (), report=options.report
    )


def mttr(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the mean time to repair on the running fleet, under load, beside starts by hand."""
    return benchmarks.mttr.run_repairs(
        settings,
        repairs=options.repairs,
        roles=options.role or (),
        rate=options.rate,
        seed=options.seed,
        report=options.report,
    )


def walk(options: argparse.Namespace, settings: Settings) -> int:
    """Kill the recoverer at every step of a repair on the running fleet; each incident must be finished once."""
    _needs_processes(settings)
    victims = [Victim(name) for name in options.victim or Victim]
    killings = benchmarks.crash_test_plan.plan(steps=options.step or STEPS, victims=victims, all_=options.all)
    return benchmarks.crash_test.run_crash_test(settings, killings=killings, report=options.report)


def calm(options: argparse.Namespace, settings: Settings) -> int:
    """Pause nodes of the running fleet for up to 5 s under load; a repair that begins is a failure."""
    return benchmarks.false_positive_test.run_false_positive_test(
        settings, minutes=options.minutes, seed=options.seed, report=options.report
    )


def release_trials(options: argparse.Namespace, settings: Settings) -> int:
    """Try three bad releases on the running fleet; each must be caught with one node touched at most."""
    return benchmarks.release_trials.run_trials(Context.from_environment())


def _needs_processes(settings: Settings) -> None:
    """Raise KintsugiError where processes can't be seen from outside: they are measured, or killed, by number."""
    environment = settings.fleet.environment
    if environment != "local":
        raise KintsugiError(
            f"this looks at processes from outside, which the environment {environment!r} doesn't show: "
            "run it in the environment 'local'"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    add_command(commands, release_trials)
    measured = add_command(commands, bench)
    measured.add_argument(
        "--only", type=lambda text: text.split(","), default=[], help="sections, separated by commas"
    )
    measured.add_argument(
        "--seconds", type=float, default=185, help="of sustained load end to end; default: 185"
    )
    disturbed = add_command(commands, soak)
    disturbed.add_argument("--kills", type=int, default=20, help="default: 20")
    for seeded in (measured, disturbed):
        seeded.add_argument("--seed", type=seed, help="chooses the data; default: the time")
        seeded.add_argument("--report", type=Path, help="default: build/<command>.json")
    measured = add_command(commands, signals)
    measured.add_argument(
        "--level", action="append", choices=("easy", "standard", "hard"), help="default: all"
    )
    measured.add_argument("--seed", action="append", type=seed, help="default: those kept for the evaluation")
    measured.add_argument("--trades", type=count, default=200_000, help="rows of a day; default: 200000")
    measured.add_argument("--report", type=Path, default=Path("build/signals.json"))
    told_whole = add_command(commands, demo)
    told_whole.add_argument(
        "--trades", type=count, default=40_000, help="rows of the sample day; default: 40000"
    )
    told_whole.add_argument("--victim", action="append", help="a node whose plug is pulled; may be repeated")
    all_nodes = add_command(commands, rounds)
    all_nodes.add_argument("--rounds", type=count, default=2, help="default: 2")
    all_nodes.add_argument("--seed", type=int, help="of the random order; default: the time")
    table = add_command(commands, faults)
    table.add_argument("cell", nargs="*", help="a fault, or a cell by name; default: the whole table")
    campaign = add_command(commands, chaos_campaign)
    campaign.add_argument("--injections", type=count, default=100, help="default: 100")
    campaign.add_argument("--seed", type=int, help="of the order; default: the time")
    stalled = add_command(commands, stall_test)
    stalled.add_argument(
        "--seconds", action="append", type=float, help="may be repeated; default: 6, 12, 17, 24 and 60"
    )
    repaired = add_command(commands, mttr)
    repaired.add_argument("--repairs", type=count, default=12, help="of each role; default: 12")
    repaired.add_argument(
        "--role",
        action="append",
        type=role,
        choices=list(Role),
        help="may be repeated; the rows of the others are kept; default: all",
    )
    repaired.add_argument("--rate", type=count, default=1000, help="trades a second; default: 1000")
    repaired.add_argument("--seed", type=int, help="of the order of the nodes; default: the time")
    walked = add_command(commands, walk)
    walked.add_argument("--step", action="append", choices=STEPS, help="may be repeated; default: all")
    walked.add_argument(
        "--victim", action="append", choices=list(Victim), help="may be repeated; default: all"
    )
    walked.add_argument("--all", action="store_true", help="every victim at every step")
    calmed = add_command(commands, calm)
    calmed.add_argument("--minutes", type=float, default=60, help="default: 60")
    calmed.add_argument("--seed", type=int, help="of the pauses; default: the time")
    for reported in (told_whole, all_nodes, table, campaign, stalled, repaired, walked, calmed):
        reported.add_argument("--report", type=Path, help="default: build/<command>.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())

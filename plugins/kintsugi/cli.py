"""``kintsugi <command>``: thin; each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from kintsugi.errors import KintsugiError
from kintsugi.fleet import Role
from kintsugi.local.walk_plan import STEPS, Victim
from kintsugi.settings import Settings, load_settings

Command = Callable[[argparse.Namespace, Settings], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 1: it failed, and said why in a line on stderr; 2: wrong usage."""
    from kintsugi.store.patience import COMMAND, be_patient

    options = _parser().parse_args(arguments)
    command: Command = options.command
    be_patient(COMMAND, lambda said: print(f"kintsugi: {said}", file=sys.stderr, flush=True))
    try:
        return command(options, load_settings())
    except KintsugiError as error:
        for line in str(error).splitlines():
            print(f"kintsugi: {line}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader has seen enough: `kintsugi status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("kintsugi: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def up(options: argparse.Namespace, settings: Settings) -> int:
    """Start whatever of the pipeline doesn't run."""
    from kintsugi.local.sign_in import sign_in
    from kintsugi.local.up import stay
    from kintsugi.local.up import up as start

    def say() -> None:
        print(sign_in(settings))
        print(
            "on a new installation, `make unpause` lets the watches, the stream and the ingest run",
            flush=True,
        )

    if options.stay:
        stay(settings, say=say)
    else:
        start(settings)
        say()
    return 0


def down(options: argparse.Namespace, settings: Settings) -> int:
    """Stop and remove everything; the artifact cache stays."""
    from kintsugi.local.up import down as stop

    stop(settings)
    return 0


def unpause(options: argparse.Namespace, settings: Settings) -> int:
    """Let every watch, the stream, the ingest and the look for drift run: a new installation waits for this."""
    from kintsugi.dag_ids import DRIFT_DAG
    from kintsugi.local.unpause import set_going
    from kintsugi.recovery.case import runtime

    set_going(runtime()).unpause(DRIFT_DAG)
    print(
        "every node and the flow are watched, the stream runs, files in S3 are ingested, "
        "hand edits on servers are looked for each hour"
    )
    return 0


def status(options: argparse.Namespace, settings: Settings) -> int:
    """Show nodes, components, DAGs, lag and the last incidents. Always 0: to look is no failure."""
    from kintsugi.local.status import gather, show

    document = gather(settings)
    if options.format == "json":
        print(json.dumps(document, indent=2))
    else:
        show(document)
    return 0


def generate(options: argparse.Namespace, settings: Settings) -> int:
    """Make a sample trading day."""
    from kintsugi.trades.generator import generate_day

    try:
        made = generate_day(
            options.directory, day=options.day, seed=options.seed, trades=options.trades, level=options.level
        )
    except OSError as error:
        raise KintsugiError(f"cannot write into {options.directory}: {error}") from error
    for path in (*made.eod_files, *made.trade_files, made.truth_file):
        print(path)
    return 0


def validate(options: argparse.Namespace, settings: Settings) -> int:
    """Say what an ingest of files would do, without one; 1 when a file or one of its rows would be rejected."""
    from kintsugi.connections import client_of
    from kintsugi.trades.validation import format_report
    from kintsugi.trades.validation import validate as look_at

    reports = []
    for name in options.file:
        report = look_at(name, lambda bucket: client_of(settings, bucket))
        reports.append(report)
        if not options.json:
            print(format_report(report), flush=True)
    if options.json:
        print(json.dumps([report.to_json() for report in reports], indent=2))
    return 0 if all(report.is_good for report in reports) else 1


def reconcile(options: argparse.Namespace, settings: Settings) -> int:
    """Compare the files in S3 with Kafka and Cassandra; 1 when a trade is lost or doubled, or a table is wrong."""
    from kintsugi.local.account import summary
    from kintsugi.trades.reconcile import reconcile as compare

    account = compare(settings, until=options.wait, repair=options.repair)
    print(json.dumps(summary(account), indent=2))
    return 0 if account.complete else 1


def redrive(options: argparse.Namespace, settings: Settings) -> int:
    """Take files again that failed or lost rows, from their first line; without keys every failed file."""
    from kintsugi.trades.redrive import redrive_files

    again = redrive_files(settings, options.keys)
    for key in again:
        print(f"to be taken again: {key}")
    if not again:
        print("no file has failed")
    return 0


def artifacts(options: argparse.Namespace, settings: Settings) -> int:
    """Fetch the jars that are missing from the cache."""
    from kintsugi.local.artifacts import ensure

    for name in ensure(settings):
        print(f"fetched {name}")
    return 0


def incident(options: argparse.Namespace, settings: Settings) -> int:
    """Tell one incident: its journal, its phases, Terraform's plan and the node's last log lines."""
    from kintsugi.local.story import tell

    print(tell(settings, options.id, as_json=options.format == "json"))
    return 0


def demo(options: argparse.Namespace, settings: Settings) -> int:
    """Show everything: a day of trades, two plugs pulled, two nodes healed, the account."""
    from kintsugi.local.demo import VICTIMS, run

    return run(settings, trades=options.trades, victims=options.victim or VICTIMS, report=options.report)


def form_anew(options: argparse.Namespace, settings: Settings) -> int:
    """Form an empty cluster where a role's disks are gone, and send all trades of S3 again."""
    from kintsugi.errors import Refused
    from kintsugi.local.form_anew import check, run

    check(settings, options.role)
    if not options.yes:
        name = options.role.value
        asked = f"All nodes and disks of {name} are replaced by empty ones. Type {name} to go on: "
        if not sys.stdin.isatty() or input(asked).strip() != name:
            raise Refused("nothing was done; --yes (YES=1) goes on without asking")
    return run(settings, options.role)


def rounds(options: argparse.Namespace, settings: Settings) -> int:
    """Pull every node's plug in turn, twice, on the running fleet; report each repair and the account."""
    from kintsugi.local.rounds import run

    return run(settings, rounds=options.rounds, seed=options.seed, report=options.report)


def bench(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the running pipeline: rates, ceiling, latency, spike, growth; writes build/bench.json and .png."""
    from kintsugi.bench.run import run

    _needs_processes(settings)
    return run(settings, only=options.only, seconds=options.seconds, seed=options.seed, report=options.report)


def soak(options: argparse.Namespace, settings: Settings) -> int:
    """Kill the streaming driver at random while trades flow; compare its tables with an undisturbed run's."""
    from kintsugi.bench.soak import run

    _needs_processes(settings)
    return run(settings, kills=options.kills, seed=options.seed, report=options.report)


def signals(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the signals on planted behaviour: precision, recall, false alerts; a table, a plot, a report."""
    from kintsugi.local.evaluate_signals import run

    return run(
        levels=options.level or [], seeds=options.seed or [], trades=options.trades, report=options.report
    )


def faults(options: argparse.Namespace, settings: Settings) -> int:
    """Run the table of faults on the running fleet; report each cell and the account."""
    from kintsugi.local.fault_table import run

    return run(settings, cells=options.cell, report=options.report)


def chaos_campaign(options: argparse.Namespace, settings: Settings) -> int:
    """Inject 100 faults in random order on the running fleet, a quarter two at once; report live kills and losses."""
    from kintsugi.local.chaos_campaign import run

    return run(settings, injections=options.injections, seed=options.seed, report=options.report)


def stall_test(options: argparse.Namespace, settings: Settings) -> int:
    """Let whole roles and the fleet stand still for 6 to 60 s; all but the longest must end without a kill."""
    from kintsugi.local.stall_test import run

    return run(settings, seconds=options.seconds or (), report=options.report)


def chaos(options: argparse.Namespace, settings: Settings) -> int:
    """Stop all chaos at once and take its faults back, allow it again, or show whether it is allowed."""
    from kintsugi.chaos.command import run

    return run(options.what, options.reason)


def mttr(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the mean time to repair on the running fleet, under load, beside starts by hand."""
    from kintsugi.local.mttr import run

    return run(
        settings,
        repairs=options.repairs,
        roles=options.role or (),
        rate=options.rate,
        seed=options.seed,
        report=options.report,
    )


def walk(options: argparse.Namespace, settings: Settings) -> int:
    """Kill the recoverer at every step of a repair on the running fleet; each incident must be finished once."""
    from kintsugi.local.walk import run
    from kintsugi.local.walk_plan import plan

    _needs_processes(settings)
    victims = [Victim(name) for name in options.victim or Victim]
    killings = plan(steps=options.step or STEPS, victims=victims, all_=options.all)
    return run(settings, killings=killings, report=options.report)


def calm(options: argparse.Namespace, settings: Settings) -> int:
    """Pause nodes of the running fleet for up to 5 s under load; a repair that begins is a failure."""
    from kintsugi.local.calm import run

    return run(settings, minutes=options.minutes, seed=options.seed, report=options.report)


def release(options: argparse.Namespace, settings: Settings) -> int:
    """Build, list, show or compare releases; name drift; try three bad releases on the running fleet."""
    from kintsugi.release.command import run

    return run(options, settings)


def _needs_processes(settings: Settings) -> None:
    """Raise KintsugiError where processes can't be seen from outside: they are measured, or killed, by number."""
    environment = settings.fleet.environment
    if environment != "local":
        raise KintsugiError(
            f"this looks at processes from outside, which the environment {environment!r} doesn't show: "
            "run it in the environment 'local'"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kintsugi", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    begun = _add(commands, up)
    begun.add_argument(
        "--stay", action="store_true", help="until SIGTERM, then stop the control plane: for a container"
    )
    for command in (unpause, down, artifacts):
        _add(commands, command)
    _add_series_of_faults(commands)
    measured = _add(commands, bench)
    measured.add_argument(
        "--only", type=lambda text: text.split(","), default=[], help="sections, separated by commas"
    )
    measured.add_argument(
        "--seconds", type=float, default=185, help="of sustained load end to end; default: 185"
    )
    disturbed = _add(commands, soak)
    disturbed.add_argument("--kills", type=int, default=20, help="default: 20")
    for seeded in (measured, disturbed):
        seeded.add_argument("--seed", type=_seed, help="chooses the data; default: the time")
        seeded.add_argument("--report", type=Path, help="default: build/<command>.json")
    compared = _add(commands, reconcile)
    compared.add_argument(
        "--wait", type=float, default=60, help="seconds at most to wait for trades under way; default: 60"
    )
    compared.add_argument(
        "--repair",
        action="store_true",
        help="write the rows of derived tables that are wrong as they should be",
    )
    taken_again = _add(commands, redrive)
    taken_again.add_argument(
        "keys", nargs="*", help="keys as `kintsugi status` shows them, without s3://bucket/"
    )
    looked_at = _add(commands, validate)
    looked_at.add_argument("file", nargs="+", help="a local file, or s3://bucket/key")
    looked_at.add_argument("--json", action="store_true", help="a list of reports as JSON")
    shown = _add(commands, status)
    told = _add(commands, incident)
    told.add_argument("id", help="as `kintsugi status` lists it")
    for parser_ in (shown, told):
        parser_.add_argument(
            "--format",
            choices=("text", "json"),
            default=os.environ.get("FORMAT", "text"),
            help="default: $FORMAT",
        )
    measured = _add(commands, signals)
    measured.add_argument(
        "--level", action="append", choices=("easy", "standard", "hard"), help="default: all"
    )
    measured.add_argument(
        "--seed", action="append", type=_seed, help="default: those kept for the evaluation"
    )
    measured.add_argument("--trades", type=_count, default=200_000, help="rows of a day; default: 200000")
    measured.add_argument("--report", type=Path, default=Path("build/signals.json"))
    made = _add(commands, generate)
    made.add_argument("directory", type=Path, help="where the files go")
    made.add_argument("--day", type=date.fromisoformat, default=date(2024, 10, 8), help="default: 2024-10-08")
    made.add_argument("--seed", type=_seed, default=1, help="the same seed makes the same files")
    made.add_argument("--trades", type=_count, default=100_000, help="about how many rows")
    made.add_argument("--level", default="standard", help="of what is planted: easy, standard, hard")
    formed = _add(commands, form_anew)
    formed.add_argument("role", type=_role, choices=(Role.KAFKA, Role.CASSANDRA))
    formed.add_argument("--yes", action="store_true", help="don't ask")
    released = _add(commands, release)
    released.add_argument("what", choices=("build", "list", "show", "diff", "drift", "trials"))
    released.add_argument("digests", nargs="*", help="first digits of a digest; diff takes one or two")
    return parser


def _add_series_of_faults(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    told_whole = _add(commands, demo)
    told_whole.add_argument(
        "--trades", type=_count, default=40_000, help="rows of the sample day; default: 40000"
    )
    told_whole.add_argument("--victim", action="append", help="a node whose plug is pulled; may be repeated")
    all_nodes = _add(commands, rounds)
    all_nodes.add_argument("--rounds", type=_count, default=2, help="default: 2")
    all_nodes.add_argument("--seed", type=int, help="of the random order; default: the time")
    table = _add(commands, faults)
    table.add_argument("cell", nargs="*", help="a fault, or a cell by name; default: the whole table")
    campaign = _add(commands, chaos_campaign)
    campaign.add_argument("--injections", type=_count, default=100, help="default: 100")
    campaign.add_argument("--seed", type=int, help="of the order; default: the time")
    stalled = _add(commands, stall_test)
    stalled.add_argument(
        "--seconds", action="append", type=float, help="may be repeated; default: 6, 12, 17, 24 and 60"
    )
    switched = _add(commands, chaos)
    switched.add_argument("what", choices=("stop", "resume", "status"))
    switched.add_argument("--reason", default="no reason was given", help="shown to everybody whom it stops")
    repaired = _add(commands, mttr)
    repaired.add_argument("--repairs", type=_count, default=12, help="of each role; default: 12")
    repaired.add_argument(
        "--role",
        action="append",
        type=_role,
        choices=list(Role),
        help="may be repeated; the rows of the others are kept; default: all",
    )
    repaired.add_argument("--rate", type=_count, default=1000, help="trades a second; default: 1000")
    repaired.add_argument("--seed", type=int, help="of the order of the nodes; default: the time")
    walked = _add(commands, walk)
    walked.add_argument("--step", action="append", choices=STEPS, help="may be repeated; default: all")
    walked.add_argument(
        "--victim", action="append", choices=list(Victim), help="may be repeated; default: all"
    )
    walked.add_argument("--all", action="store_true", help="every victim at every step")
    calmed = _add(commands, calm)
    calmed.add_argument("--minutes", type=float, default=60, help="default: 60")
    calmed.add_argument("--seed", type=int, help="of the pauses; default: the time")
    for reported in (told_whole, all_nodes, table, campaign, stalled, repaired, walked, calmed):
        reported.add_argument("--report", type=Path, help="default: build/<command>.json")


def _role(text: str) -> Role:
    """A role, also as the names of its nodes write it (spark-master)."""
    return Role(text.replace("-", "_"))


def _count(text: str) -> int:
    """A number of at least 1."""
    return _at_least(1, text)


def _seed(text: str) -> int:
    """A number of at least 0, as numpy's generators take it."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    """The number; argparse turns what is raised into wrong usage."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    return number


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Command
) -> argparse.ArgumentParser:
    summary = (command.__doc__ or "").splitlines()[0]
    name = command.__name__.replace("_", "-")
    other = [command.__name__] if name != command.__name__ else []
    parser = commands.add_parser(name, aliases=other, help=summary, description=summary)
    parser.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())

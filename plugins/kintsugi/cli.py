"""``kintsugi <command>``: thin; each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from kintsugi.core.dag_ids import DRIFT_DAG
from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.installation.command_line import add_command, count, role, run_command, seed

MOVED = (
    "bench", "calm", "chaos-campaign", "demo", "faults", "mttr", "rounds", "signals", "soak", "stall-test", "walk",
)  # fmt: skip
"""Experiments that were commands of this program; they are in `benchmarks/`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 1: it failed, and said why in a line on stderr; 2: wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0].replace("_", "-") if words else ""
    if words[:2] == ["release", "trials"]:
        name = "release-trials"
    if name in (*MOVED, "release-trials"):
        print(f"kintsugi: this is `python -m benchmarks {name}` now; make runs it as before", file=sys.stderr)
        return 2
    return run_command(_parser().parse_args(words))


def up(options: argparse.Namespace, settings: Settings) -> int:
    """Start whatever of the pipeline doesn't run."""
    from kintsugi.installation.sign_in import sign_in  # start-up
    from kintsugi.installation.up import stay  # start-up
    from kintsugi.installation.up import up as start  # start-up

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
    from kintsugi.installation.up import down as stop  # start-up

    stop(settings)
    return 0


def unpause(options: argparse.Namespace, settings: Settings) -> int:
    """Let every watch, the stream, the ingest and the look for drift run: a new installation waits for this."""
    from kintsugi.installation.unpause import unpause_dags  # start-up
    from kintsugi.operations.context import Context  # start-up

    unpause_dags(Context.from_environment()).unpause(DRIFT_DAG)
    print(
        "every node and the flow are watched, the stream runs, files in S3 are ingested, "
        "hand edits on servers are looked for each hour"
    )
    return 0


def status(options: argparse.Namespace, settings: Settings) -> int:
    """Show nodes, components, DAGs, lag and the last incidents. Always 0: to look is no failure."""
    from kintsugi.installation.status import gather_status, print_status  # start-up

    document = gather_status(settings)
    if options.format == "json":
        print(json.dumps(document, indent=2))
    else:
        print_status(document)
    return 0


def generate(options: argparse.Namespace, settings: Settings) -> int:
    """Make a sample trading day."""
    from kintsugi.sampledata.generator import generate_day  # start-up

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
    from kintsugi.core.connections import client_of  # start-up
    from kintsugi.pipeline.ingest.validation import format_report  # start-up
    from kintsugi.pipeline.ingest.validation import validate as look_at  # start-up

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
    from kintsugi.pipeline.reconcile.reconcile import reconcile as compare  # start-up
    from kintsugi.pipeline.reconcile.summary import summary  # start-up

    account = compare(settings, until=options.wait, repair=options.repair)
    print(json.dumps(summary(account), indent=2))
    return 0 if account.complete else 1


def redrive(options: argparse.Namespace, settings: Settings) -> int:
    """Take files again that failed or lost rows, from their first line; without keys every failed file."""
    from kintsugi.pipeline.ingest.redrive import redrive_files  # start-up

    again = redrive_files(settings, options.keys)
    for key in again:
        print(f"to be taken again: {key}")
    if not again:
        print("no file has failed")
    return 0


def artifacts(options: argparse.Namespace, settings: Settings) -> int:
    """Fetch the jars that are missing from the cache."""
    from kintsugi.infra.artifacts import ensure  # start-up

    for name in ensure(settings):
        print(f"fetched {name}")
    return 0


def incident(options: argparse.Namespace, settings: Settings) -> int:
    """Tell one incident: its journal, its phases, Terraform's plan and the node's last log lines."""
    from kintsugi.installation.incident_report import print_incident  # start-up

    print(print_incident(settings, options.id, as_json=options.format == "json"))
    return 0


def form_anew(options: argparse.Namespace, settings: Settings) -> int:
    """Form an empty cluster where a role's disks are gone, and send all trades of S3 again."""
    from kintsugi.installation.recreate_cluster import check, recreate  # start-up

    check(settings, options.role)
    if not options.yes:
        name = options.role.value
        asked = f"All nodes and disks of {name} are replaced by empty ones. Type {name} to go on: "
        if not sys.stdin.isatty() or input(asked).strip() != name:
            raise GuardRefused("nothing was done; --yes (YES=1) goes on without asking")
    return recreate(settings, options.role)


def chaos(options: argparse.Namespace, settings: Settings) -> int:
    """Stop all chaos at once and take its faults back, allow it again, or show whether it is allowed."""
    from kintsugi.chaos.command import run  # start-up

    return run(options.what, options.reason)


def release(options: argparse.Namespace, settings: Settings) -> int:
    """Build, list, show or compare releases; name drift."""
    from kintsugi.releases.command import run  # start-up

    return run(options, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kintsugi", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    begun = add_command(commands, up)
    begun.add_argument(
        "--stay", action="store_true", help="until SIGTERM, then stop the control plane: for a container"
    )
    for command in (unpause, down, artifacts):
        add_command(commands, command)
    compared = add_command(commands, reconcile)
    compared.add_argument(
        "--wait", type=float, default=60, help="seconds at most to wait for trades under way; default: 60"
    )
    compared.add_argument(
        "--repair",
        action="store_true",
        help="write the rows of derived tables that are wrong as they should be",
    )
    taken_again = add_command(commands, redrive)
    taken_again.add_argument(
        "keys", nargs="*", help="keys as `kintsugi status` shows them, without s3://bucket/"
    )
    looked_at = add_command(commands, validate)
    looked_at.add_argument("file", nargs="+", help="a local file, or s3://bucket/key")
    looked_at.add_argument("--json", action="store_true", help="a list of reports as JSON")
    shown = add_command(commands, status)
    told = add_command(commands, incident)
    told.add_argument("id", help="as `kintsugi status` lists it")
    for parser_ in (shown, told):
        parser_.add_argument(
            "--format",
            choices=("text", "json"),
            default=os.environ.get("FORMAT", "text"),
            help="default: $FORMAT",
        )
    made = add_command(commands, generate)
    made.add_argument("directory", type=Path, help="where the files go")
    made.add_argument("--day", type=date.fromisoformat, default=date(2024, 10, 8), help="default: 2024-10-08")
    made.add_argument("--seed", type=seed, default=1, help="the same seed makes the same files")
    made.add_argument("--trades", type=count, default=100_000, help="about how many rows")
    made.add_argument("--level", default="standard", help="of what is planted: easy, standard, hard")
    formed = add_command(commands, form_anew)
    formed.add_argument("role", type=role, choices=(Role.KAFKA, Role.CASSANDRA))
    formed.add_argument("--yes", action="store_true", help="don't ask")
    switched = add_command(commands, chaos)
    switched.add_argument("what", choices=("stop", "resume", "status"))
    switched.add_argument("--reason", default="no reason was given", help="shown to everybody whom it stops")
    released = add_command(commands, release)
    released.add_argument("what", choices=("build", "list", "show", "diff", "drift"))
    released.add_argument("digests", nargs="*", help="first digits of a digest; diff takes one or two")
    return parser


if __name__ == "__main__":
    sys.exit(main())

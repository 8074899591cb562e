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
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings
from kintsugi.installation.command_line import (
    add_command,
    current_words,
    parse_count,
    parse_seed,
    print_new_name,
    run_command,
)
from kintsugi.installation.former_commands import RENAMED, run_moved_command
from kintsugi.installation.node_commands import add_node_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 1: it failed, and said why in a line on stderr; 2: wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    run_moved_command(words)
    return run_command(_parser().parse_args(current_words("kintsugi", words, RENAMED)))


def up(options: argparse.Namespace, settings: Settings) -> int:
    """Start the control plane and the fleet; what runs already is left alone."""
    from kintsugi.installation.sign_in import sign_in_text  # start-up
    from kintsugi.installation.up import run_in_foreground, start_installation  # start-up

    def say() -> None:
        print(sign_in_text(settings))
        print(
            "On a new installation, run `make unpause`: it starts the watches, the stream and the ingest.",
            flush=True,
        )

    if options.stay:
        run_in_foreground(settings, say=say)
    else:
        start_installation(settings)
        say()
    return 0


def down(options: argparse.Namespace, settings: Settings) -> int:
    """Stop and remove the control plane, the fleet and all data; only the cache of jars stays."""
    from kintsugi.installation.up import remove_installation as stop  # start-up

    stop(settings)
    return 0


def unpause(options: argparse.Namespace, settings: Settings) -> int:
    """Unpause watches, stream, ingest and drift check; a new installation waits for this."""
    from kintsugi.installation.unpause import unpause_dags  # start-up
    from kintsugi.operations.context import Context  # start-up

    unpause_dags(Context.from_environment()).unpause(DRIFT_DAG)
    print(
        "Unpaused: the watches of all nodes and of the stream, the stream, the ingest, "
        "and the hourly check for drift (check_drift)."
    )
    return 0


def status(options: argparse.Namespace, settings: Settings) -> int:
    """Show nodes, components, DAGs, lag and the last incidents. The exit code is always 0."""
    from kintsugi.installation.status import gather_status, print_status  # start-up

    document = gather_status(settings)
    if options.format == "json":
        print(json.dumps(document, indent=2))
    else:
        print_status(document)
    return 0


def user_password(options: argparse.Namespace, settings: Settings) -> int:
    """Show the password of a user of Airflow, or where it is; --new makes another one first."""
    from kintsugi.controlplane import accounts  # start-up
    from kintsugi.installation.sign_in import password_text  # start-up

    if options.new:
        accounts.renew_password(settings, options.name)
    print(f"user: {options.name}   password: {password_text(settings, options.name)}")
    return 0


def generate(options: argparse.Namespace, settings: Settings) -> int:
    """Write the files of a sample trading day."""
    from kintsugi.sampledata.generator import generate_day  # start-up

    try:
        day = generate_day(
            options.directory, day=options.day, seed=options.seed, trades=options.trades, level=options.level
        )
    except OSError as error:
        raise KintsugiError(f"cannot write into {options.directory}: {error}") from error
    for path in (*day.eod_files, *day.trade_files, day.truth_file):
        print(path)
    return 0


def validate(options: argparse.Namespace, settings: Settings) -> int:
    """Check trade files without ingesting them; exit code 1 if a file or a row would be rejected."""
    from kintsugi.core.connections import client_of  # start-up
    from kintsugi.pipeline.ingest.validation import format_report  # start-up
    from kintsugi.pipeline.ingest.validation import validate_file as look_at  # start-up

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
    """Compare S3 with Kafka and Cassandra; exit code 1 if a trade is lost or doubled or a table is wrong."""
    from kintsugi.pipeline.reconcile.installation import reconcile_installation as compare  # start-up
    from kintsugi.pipeline.reconcile.summary import summarize_report  # start-up

    report = compare(settings, until=options.wait, repair=options.repair)
    print(json.dumps(summarize_report(report), indent=2))
    return 0 if report.complete else 1


def redrive(options: argparse.Namespace, settings: Settings) -> int:
    """Ingest failed files again from their first line; without keys, every failed file."""
    from kintsugi.core.users import current_actor  # start-up
    from kintsugi.pipeline.ingest.redrive import redrive_files  # start-up

    again = redrive_files(settings, options.keys, user=current_actor())
    for key in again:
        print(f"will be ingested again: {key}")
    if not again:
        print("no file has failed")
    return 0


def artifacts(options: argparse.Namespace, settings: Settings) -> int:
    """Download the jars that are missing from the cache."""
    from kintsugi.infra.artifacts import ensure  # start-up

    for name in ensure(settings):
        print(f"fetched {name}")
    return 0


def incident(options: argparse.Namespace, settings: Settings) -> int:
    """Show one incident: journal, phases, Terraform's plan and the last log lines of the node."""
    from kintsugi.installation.incident_report import format_incident  # start-up

    print(format_incident(settings, options.id, as_json=options.format == "json"))
    return 0


def chaos_stop(options: argparse.Namespace, settings: Settings) -> int:
    """Stop all fault injection at once and undo the faults that are in force."""
    from kintsugi.chaos.command import main  # start-up

    return main("stop", options.reason)


def chaos_resume(options: argparse.Namespace, settings: Settings) -> int:
    """Allow fault injection again."""
    from kintsugi.chaos.command import main  # start-up

    return main("resume", "")


def chaos_status(options: argparse.Namespace, settings: Settings) -> int:
    """Show whether fault injection is allowed, and which faults are in force."""
    from kintsugi.chaos.command import main  # start-up

    return main("status", "")


def old_chaos(options: argparse.Namespace, settings: Settings) -> int:
    """Run ``kintsugi chaos stop|resume|status``, as it was called in the last release."""
    print_new_name(f"kintsugi chaos {options.what}", f"kintsugi chaos-{options.what}")
    command = {"stop": chaos_stop, "resume": chaos_resume, "status": chaos_status}[options.what]
    return command(options, settings)


def rotate_secrets(options: argparse.Namespace, settings: Settings) -> int:
    """Renew Airflow's keys with a restart of Airflow, then all else node by node, by the DAG `rotate_secrets`."""
    from kintsugi.controlplane.control_plane import ControlPlane  # start-up
    from kintsugi.installation.airflow_key_rotation import rotate_airflow_keys  # start-up
    from kintsugi.operations.context import Context  # start-up
    from kintsugi.releases.secret_rotation import is_rotation_unfinished  # start-up

    plane = ControlPlane(settings)
    if not is_rotation_unfinished(settings):  # else the DAG goes on with what was renewed already
        print(rotate_airflow_keys(Context.from_environment(), plane))
    airflow = plane.airflow
    airflow.unpause("rotate_secrets")
    run_id = airflow.trigger("rotate_secrets", {"authority": options.authority})
    print(
        f"The run {run_id} of rotate_secrets restarts the nodes of Kafka and Cassandra, one at a time"
        f"{', and then those of Spark' if options.authority else ''}: see {airflow.url}. "
        "The DAG is unpaused now, so it also runs on the first of each month. Pause it to prevent that."
    )
    return 0


def backup(options: argparse.Namespace, settings: Settings) -> int:
    """Back up the control plane to S3, encrypted: databases, secrets, releases, Terraform's state."""
    from kintsugi.installation.backup import back_up  # start-up

    print(back_up(settings, new_key=options.new_key))
    return 0


def restore(options: argparse.Namespace, settings: Settings) -> int:
    """Restore the control plane from a backup, on a machine that has lost it; nodes that run are left alone."""
    from kintsugi.installation.backup_place import DirectoryPlace  # start-up
    from kintsugi.installation.restore import restore as restore_control_plane  # start-up

    source = DirectoryPlace(options.directory) if options.directory else None
    print(restore_control_plane(settings, backup=options.backup, source=source))
    print(
        "next: `make up`, which starts the control plane and takes over the nodes that run. After it: "
        "`make status`, and trigger anti_entropy if a node was recovered after the backup"
    )
    return 0


def release(options: argparse.Namespace, settings: Settings) -> int:
    """Build, list, show or compare releases, or show drift."""
    from kintsugi.releases.command import main  # start-up

    return main(options, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kintsugi",
        description="Install, watch and operate the pipeline. Experiments: python -m benchmarks.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    up_parser = add_command(commands, up)
    up_parser.add_argument(
        "--stay",
        action="store_true",
        help="stay in the foreground; SIGTERM stops the control plane (for a container)",
    )
    for command in (unpause, down, artifacts):
        add_command(commands, command)
    backup_parser = add_command(commands, backup)
    backup_parser.add_argument(
        "--new-key", action="store_true", help="make another key if the old one is lost, with the old backups"
    )
    restore_parser = add_command(commands, restore)
    restore_parser.add_argument(
        "--backup", help="id of the backup, its time; default: the newest complete one"
    )
    restore_parser.add_argument(
        "--directory",
        type=Path,
        help="directory that holds backups/, a copy of the bucket; default: the bucket",
    )
    reconcile_parser = add_command(commands, reconcile)
    reconcile_parser.add_argument(
        "--wait",
        type=float,
        default=60,
        help="seconds to wait at most for trades that are still in Kafka; default: 60",
    )
    reconcile_parser.add_argument(
        "--repair",
        action="store_true",
        help="correct the wrong rows of derived tables",
    )
    redrive_parser = add_command(commands, redrive)
    redrive_parser.add_argument(
        "keys", nargs="*", help="S3 keys as `kintsugi status` shows them, without s3://bucket/"
    )
    validate_parser = add_command(commands, validate)
    validate_parser.add_argument("file", nargs="+", help="a local file, or s3://bucket/key")
    validate_parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    status_parser = add_command(commands, status)
    incident_parser = add_command(commands, incident)
    incident_parser.add_argument("id", help="id of the incident, as `kintsugi status` lists it")
    for parser_ in (status_parser, incident_parser):
        parser_.add_argument(
            "--format",
            choices=("text", "json"),
            default=os.environ.get("FORMAT", "text"),
            help="default: the environment variable FORMAT, or text",
        )
    password_parser = add_command(commands, user_password)
    password_parser.add_argument("name", help="name of the user, as KINTSUGI_USERS has it")
    password_parser.add_argument(
        "--new", action="store_true", help="make a new password; it ends the user's sessions"
    )
    generate_parser = add_command(commands, generate)
    generate_parser.add_argument("directory", type=Path, help="directory to write into")
    generate_parser.add_argument(
        "--day", type=date.fromisoformat, default=date(2024, 10, 8), help="trading day; default: 2024-10-08"
    )
    generate_parser.add_argument(
        "--seed", type=parse_seed, default=1, help="the same seed writes the same files; default: 1"
    )
    generate_parser.add_argument(
        "--trades", type=parse_count, default=100_000, help="approximate number of rows; default: 100000"
    )
    generate_parser.add_argument(
        "--level",
        default="standard",
        help="how hard the injected behaviour is to detect: easy, standard, hard; default: standard",
    )
    add_node_commands(commands)
    stop_parser = add_command(commands, chaos_stop)
    for command in (chaos_resume, chaos_status):
        add_command(commands, command)
    rotation_parser = add_command(commands, rotate_secrets)
    rotation_parser.add_argument(
        "--authority",
        action="store_true",
        help="also replace the certificate authority; restarts Spark's nodes",
    )
    old_chaos_parser = commands.add_parser("chaos")  # no help: the list of commands doesn't show it
    old_chaos_parser.set_defaults(command=old_chaos)
    old_chaos_parser.add_argument("what", choices=("stop", "resume", "status"))
    for parser_ in (stop_parser, old_chaos_parser):
        parser_.add_argument(
            "--reason", default="no reason was given", help="shown to everyone whose faults are stopped"
        )
    release_parser = add_command(commands, release)
    release_parser.add_argument("what", choices=("build", "list", "show", "diff", "drift"), help="what to do")
    release_parser.add_argument(
        "digests", nargs="*", help="first digits of a digest; `show` takes one, `diff` one or two"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

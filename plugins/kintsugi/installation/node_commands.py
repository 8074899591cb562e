"""The commands that recreate a cluster, replace a node, or add and remove nodes."""

from __future__ import annotations

import argparse
import sys

from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.installation.command_line import add_command, parse_count, parse_role


def recreate_cluster(options: argparse.Namespace, settings: Settings) -> int:
    """Recreate a cluster whose disks are lost: empty nodes and disks, then every trade in S3 is replayed."""
    from kintsugi.installation.recreate_cluster import recreate_cluster, require_loss  # start-up

    require_loss(settings, options.role)
    if not options.yes:
        name = options.role.value
        prompt = f"All nodes and disks of {name} are replaced by empty ones. Type {name} to go on: "
        if not sys.stdin.isatty() or input(prompt).strip() != name:
            raise GuardRefused(
                "nothing was changed, because the name was not confirmed; --yes (YES=1) skips the question"
            )
    return recreate_cluster(settings, options.role)


def replace_node(options: argparse.Namespace, settings: Settings) -> int:
    """Drain a healthy node and replace it, by the DAG `replace_node`; exit code 1 if that is refused or fails."""
    from kintsugi.installation import node_replacement  # start-up

    keep_volume = not options.new_volume
    print(
        node_replacement.replace_node(
            settings, options.node, keep_volume=keep_volume, dry_run=options.dry_run, say=_say_at_once
        )
    )
    return 0


def scale_fleet(options: argparse.Namespace, settings: Settings) -> int:
    """Add and remove nodes as the fleet file declares, by the DAG `scale_fleet`; exit code 1 if refused or failed."""
    from kintsugi.installation import fleet_scaling  # start-up

    print(
        fleet_scaling.scale_fleet(
            settings, rate_mib=options.rate_mib, dry_run=options.dry_run, say=_say_at_once
        )
    )
    return 0


def _say_at_once(line: str) -> None:
    print(line, flush=True)


def add_node_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add these commands, with their arguments."""
    recreate_parser = add_command(commands, recreate_cluster)
    recreate_parser.add_argument(
        "role", type=parse_role, choices=(Role.KAFKA, Role.CASSANDRA), help="role of the cluster"
    )
    recreate_parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    replace_parser = add_command(commands, replace_node)
    replace_parser.add_argument("node", help="name of the node, as `kintsugi status` shows it")
    replace_parser.add_argument(
        "--new-volume",
        action="store_true",
        help="replace the volume by an empty one too (for a retiring disk)",
    )
    replace_parser.add_argument(
        "--dry-run", action="store_true", help="ask the guards and show Terraform's plan; change nothing"
    )
    scale_parser = add_command(commands, scale_fleet)
    scale_parser.add_argument(
        "--rate-mib",
        type=parse_count,
        default=20,
        help="MiB a second for each Kafka broker, for replicas that move; default: 20",
    )
    scale_parser.add_argument(
        "--dry-run", action="store_true", help="show the plan and ask the guards; change nothing"
    )

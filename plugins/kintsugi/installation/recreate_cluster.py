"""``make recreate-cluster ROLE=…``: an empty cluster replaces one whose disks are lost; S3 is replayed into it.

The recovery lets a new disk join the existing cluster, and never forms another one: a node that can't see its peers
would form a second cluster. If too few disks are left to join, it pages a person, and that person runs this command.

1. It is refused while enough disks are left: then approved repairs restore the cluster (`require_loss`).
2. Recovery of the nodes is paused: their open questions are declined, and a running repair is waited for.
3. Nodes and disks of the role are replaced, and form a cluster. Kafka's offsets begin at zero again, so the stream's
   checkpoint, which continues the old ones, is removed with them: the Spark master's disk.
4. Topics and tables are created. Cassandra's baselines are built again from the end-of-day files, and then every trade
   file of S3 is replayed. A trade keeps its identity, so rows that are stored already stay as they are.

It may be killed at any point and run again: a mark shows that the disks are those that it was creating.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core import cassandra_racks
from kintsugi.core.dag_ids import BASELINE_DAG
from kintsugi.core.errors import GuardRefused, LeaseHeld, StepFailed
from kintsugi.core.fleet import Node, Role, watch_dag_id
from kintsugi.core.processes import wait_until
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.core.users import operating_user
from kintsugi.environments import node_files
from kintsugi.installation.progress import Progress
from kintsugi.operations import manual_mode
from kintsugi.operations.context import Context
from kintsugi.pipeline.object_listing import list_objects
from kintsugi.pipeline.schema import ensure_topics_and_tables
from kintsugi.pipeline.stream.baselines import EOD_MANIFESTS, pending_files
from kintsugi.recovery import plan_policy
from kintsugi.recovery.guard_model import DECLINE
from kintsugi.releases import bootstrap

if TYPE_CHECKING:
    from kintsugi.infra.airflow_client import Airflow

HOLDER = "make recreate-cluster"
OLD_HOLDER = "make form-anew"  # of a run that the last release began
FORMED_OF = {Role.KAFKA: "kafka", Role.CASSANDRA: "cassandra"}
REPAIR_DEADLINE_S = 1800.0
BASELINE_DEADLINE_S = 600.0
REPLAY_DEADLINE_S = 12 * 3600.0


def recreate_cluster(settings: Settings, role: Role) -> int:
    """Recreate the role's cluster; returns 0 when every trade file was sent again. Raises GuardRefused without need."""
    context, progress = Context.from_environment(), Progress()
    airflow = ControlPlane(settings).airflow
    require_loss(settings, role)
    nodes = replaced_nodes(context, role)
    manual_mode.end_manual_mode(context, OLD_HOLDER)
    reason = f"its cluster is being recreated by {operating_user()}"
    with ExitStack() as holds:
        with progress.step(f"pause recovery of {', '.join(node.name for node in nodes)}"):
            for node in nodes:
                end_repair(context, airflow, node, progress)
                holds.enter_context(
                    manual_mode.manual_mode(context, airflow, node.name, holder=HOLDER, reason=reason)
                )
        form_cluster(context, role, nodes, progress)
    if role is Role.CASSANDRA:
        with progress.step("baselines from the end-of-day files"):
            airflow.unpause(BASELINE_DAG)
            rebuild_baselines(context)
    with progress.step("every trade file of S3, sent again"):
        airflow.replay({"everything": True}, REPLAY_DEADLINE_S)
    progress.say("`make reconcile` says when all is back")
    return 0


def require_loss(settings: Settings, role: Role) -> None:
    """Raise GuardRefused unless too few disks are left to restore the role's cluster.

    One Cassandra disk is enough: the others are rebuilt from it. Kafka's voters decide by majority.
    """
    if role not in FORMED_OF:
        raise GuardRefused(f"{role.value} has no data of its own: recovery rebuilds its nodes")
    if settings.fleet.hosts:
        raise GuardRefused(
            "a cluster on hosts can't be recreated yet: nobody looks at the disks of hosts that are silent "
            "(docs/hosts.md)"
        )
    if forming_file(settings, role).exists():
        return
    nodes = settings.fleet.of(role)
    left = [node.name for node in nodes if holds_data(settings, node)]
    needed = 1 if role is Role.CASSANDRA else len(nodes) // 2 + 1
    if len(left) >= needed:
        raise GuardRefused(
            f"{role.value} is not recreated: this command would destroy the disk of {', '.join(left)}. "
            "Approve the repairs of the other nodes on Pipeline Health. Then trigger replay_trades with everything, "
            "which restores what only the lost disks held"
        )


def holds_data(settings: Settings, node: Node) -> bool:
    """Whether the node's disk has been a member's: Cassandra joined with it, or Kafka's quorum wrote to it.

    A disk that is only formatted, and waits for a cluster that is gone, has neither.
    """
    volume = settings.node_volume(node.name)
    if node.role is Role.CASSANDRA:
        return node_files.is_there(volume, "data/cassandra/joined")
    folder = "data/kafka/__cluster_metadata-0"
    logs = [name for name in node_files.names_in(volume, folder) if name.endswith(".log")]
    return any(node_files.file_size(volume, f"{folder}/{name}") for name in logs)


def formed_file(settings: Settings, role: Role) -> Path:
    """Return the path of the record that the role's cluster exists (docs/decisions/0020)."""
    return settings.control / "formed" / FORMED_OF[role]


def forming_file(settings: Settings, role: Role) -> Path:
    """Return the path of the mark of a run that replaces the disks and hasn't finished."""
    return formed_file(settings, role).with_suffix(".forming")


def replaced_nodes(context: Context, role: Role) -> list[Node]:
    """Return the nodes that are replaced: the role's, and for Kafka the one with the stream's checkpoint."""
    beside = context.fleet.of(Role.SPARK_MASTER) if role is Role.KAFKA else ()
    return [*context.fleet.of(role), *beside]


def end_repair(context: Context, airflow: Airflow, node: Node, progress: Progress) -> None:
    """Decline the questions of the node's repair, and wait until it has ended; raises StepFailed at the deadline."""
    has_printed = False

    def has_lease() -> bool:
        nonlocal has_printed
        airflow.answer_all([watch_dag_id(node.name)], DECLINE)
        try:
            context.store.acquire_lease(node.name, HOLDER, manual_mode.LIMIT_S, fresh_token=True)
        except LeaseHeld as error:
            if not has_printed:
                progress.say(str(error))
            has_printed = True
            return False
        return True

    if not wait_until(has_lease, REPAIR_DEADLINE_S, pause=1.0):
        raise StepFailed(
            f"{node.name} is still being repaired after {REPAIR_DEADLINE_S:.0f} s: end that run in Airflow first"
        )


def form_cluster(context: Context, role: Role, nodes: Sequence[Node], progress: Progress) -> None:
    """Replace the nodes and their disks, and let them form a cluster with its topics or tables."""
    with progress.step("Terraform: new nodes, new disks"):
        mark = forming_file(context.settings, role)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        formed_file(context.settings, role).unlink(missing_ok=True)
        if role is Role.CASSANDRA:
            cassandra_racks.forget_zones(context.settings)
        context.terraform().replace(terraform_addresses(context.fleet.environment, nodes))
    with progress.step("Ansible: configure and form"):
        bootstrap.start_fleet(context)
        formed_file(context.settings, role).touch()  # a run over nodes of several releases doesn't write it
        mark.unlink()
        context.store.forget_pending(node.name for node in nodes)
    with progress.step("topics and tables"):
        ensure_topics_and_tables(context.fleet)


def terraform_addresses(environment: str, nodes: Iterable[Node]) -> list[str]:
    """Return Terraform's addresses of the nodes and their volumes."""
    return [
        address
        for node in nodes
        for address in plan_policy.node_addresses(environment, node.name, with_volume=True)
    ]


def rebuild_baselines(context: Context) -> None:
    """Delete the manifests of the end-of-day files, and wait until `build_baseline` has read all files again."""
    s3 = context.s3(S3Purpose.INGEST)
    for item in list(list_objects(s3, BUCKET, EOD_MANIFESTS)):
        s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    if not wait_until(lambda: not pending_files(s3), BASELINE_DEADLINE_S, pause=1.0):
        raise StepFailed(
            f"the baselines aren't there {BASELINE_DEADLINE_S:.0f} s later: look at build_baseline in Airflow, "
            "then trigger replay_trades with everything"
        )

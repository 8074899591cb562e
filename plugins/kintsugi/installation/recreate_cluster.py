"""``make recreate-cluster ROLE=…``: an empty cluster replaces one whose disks are lost; S3 is replayed into it.

The recovery joins a new disk to the cluster that there is, and never begins another one: who loses sight of its peers
would else found a second. Where too few disks are left to join, it calls a person, and this is what that person runs.

1. Refused while enough disks are left: then the approved repairs bring the cluster back (`check`).
2. The recovery's hands are kept off the nodes; questions of theirs are declined, a repair under way is waited for.
3. Nodes and disks of the role are replaced, and form a cluster. Kafka's offsets begin at zero again, so the stream's
   checkpoint, which counts on from the old ones, goes with them: the Spark master's disk.
4. Topics and tables are made. Cassandra's baselines are built again from the end-of-day files, and then every trade
   file of S3 is replayed; a trade keeps its identity, so what is stored already stays as it is.

Killed at any point, the same command goes on: a mark says that the disks there are those that it was putting in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.dag_ids import BASELINE_DAG
from kintsugi.core.errors import GuardRefused, LeaseHeld, StepFailed
from kintsugi.core.fleet import Node, Role, watch_dag_id
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import BUCKET, Settings
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
REASON = "its cluster is being recreated"
FORMED_OF = {Role.KAFKA: "kafka", Role.CASSANDRA: "cassandra"}
REPAIR_DEADLINE_S = 1800.0
BASELINE_DEADLINE_S = 600.0
REPLAY_DEADLINE_S = 12 * 3600.0


def recreate(settings: Settings, role: Role) -> int:
    """All of it; 0 when every trade file was sent again. Raises GuardRefused where nothing needs to be recreated."""
    context, progress = Context.from_environment(), Progress()
    airflow = ControlPlane(settings).airflow
    check(settings, role)
    nodes = concerned(context, role)
    manual_mode.end_manual_mode(context, OLD_HOLDER)
    with ExitStack() as hands:
        with progress.step(f"the recovery's hands off {', '.join(node.name for node in nodes)}"):
            for node in nodes:
                end_repair(context, airflow, node, progress)
                hands.enter_context(
                    manual_mode.manual_mode(context, airflow, node.name, holder=HOLDER, reason=REASON)
                )
        form(context, role, nodes, progress)
    if role is Role.CASSANDRA:
        with progress.step("baselines from the end-of-day files"):
            airflow.unpause(BASELINE_DAG)
            rebuild_baselines(context)
    with progress.step("every trade file of S3, sent again"):
        airflow.replay({"everything": True}, REPLAY_DEADLINE_S)
    progress.say("`make reconcile` says when all is back")
    return 0


def check(settings: Settings, role: Role) -> None:
    """Raise GuardRefused unless too few disks are left for the role's cluster to come back from.

    One Cassandra disk is enough: the others are rebuilt from it. Kafka's voters decide by majority.
    """
    if role not in FORMED_OF:
        raise GuardRefused(f"{role.value} keeps nothing that isn't elsewhere: its nodes are simply rebuilt")
    if forming(settings, role).exists():
        return
    nodes = settings.fleet.of(role)
    left = [node.name for node in nodes if holds_data(settings, node)]
    needed = 1 if role is Role.CASSANDRA else len(nodes) // 2 + 1
    if len(left) >= needed:
        raise GuardRefused(
            f"the disk of {', '.join(left)} is there: nothing has to be recreated, and it would be destroyed. "
            "Approve the repairs of the others on Pipeline Health, then replay_trades restores what only they had"
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


def note(settings: Settings, role: Role) -> Path:
    """The file that says that the role's cluster exists (docs/decisions/0020)."""
    return settings.control / "formed" / FORMED_OF[role]


def forming(settings: Settings, role: Role) -> Path:
    """The mark of a run that has begun to replace the disks, and hasn't come to the end of it."""
    return note(settings, role).with_suffix(".forming")


def concerned(context: Context, role: Role) -> list[Node]:
    """The nodes that are replaced: the role's, and for Kafka the one with the stream's checkpoint."""
    beside = context.fleet.of(Role.SPARK_MASTER) if role is Role.KAFKA else ()
    return [*context.fleet.of(role), *beside]


def end_repair(context: Context, airflow: Airflow, node: Node, progress: Progress) -> None:
    """Decline what the node's repair asks, and wait until nobody repairs it; raises StepFailed at the deadline."""
    told = False

    def free() -> bool:
        nonlocal told
        airflow.answer_all([watch_dag_id(node.name)], DECLINE)
        try:
            context.store.acquire_lease(node.name, HOLDER, manual_mode.LIMIT_S, fresh_token=True)
        except LeaseHeld as held:
            if not told:
                progress.say(str(held))
            told = True
            return False
        return True

    if not wait_until(free, REPAIR_DEADLINE_S, pause=1.0):
        raise StepFailed(
            f"{node.name} is still being repaired after {REPAIR_DEADLINE_S:.0f} s: end that run in Airflow first"
        )


def form(context: Context, role: Role, nodes: Sequence[Node], progress: Progress) -> None:
    """Replace the nodes and their disks, and let them form a cluster with its topics or tables."""
    with progress.step("Terraform: new nodes, new disks"):
        begun = forming(context.settings, role)
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.touch()
        note(context.settings, role).unlink(missing_ok=True)
        context.terraform().replace(addresses(context.fleet.environment, nodes))
    with progress.step("Ansible: configure and form"):
        bootstrap.start_fleet(context)
        note(context.settings, role).touch()  # a run over nodes of several releases doesn't note it
        begun.unlink()
        context.store.forget_pending(node.name for node in nodes)
    with progress.step("topics and tables"):
        ensure_topics_and_tables(context.fleet)


def addresses(environment: str, nodes: Iterable[Node]) -> list[str]:
    """Terraform's addresses of the nodes and their volumes."""
    return [
        address
        for node in nodes
        for address in plan_policy.node_addresses(environment, node.name, with_volume=True)
    ]


def rebuild_baselines(context: Context) -> None:
    """Forget that the end-of-day files were read, and wait until `build_baseline` has read them all again."""
    s3 = context.s3()
    for item in list(list_objects(s3, BUCKET, EOD_MANIFESTS)):
        s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    if not wait_until(lambda: not pending_files(s3), BASELINE_DEADLINE_S, pause=1.0):
        raise StepFailed(
            f"the baselines aren't there {BASELINE_DEADLINE_S:.0f} s later: look at build_baseline in Airflow, "
            "then trigger replay_trades with everything"
        )

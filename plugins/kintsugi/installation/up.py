"""Start the whole installation, and remove all of it again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.controlplane import preflight
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.certificates import create_authority, remove_authority
from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import FleetError, KintsugiError, StepFailed
from kintsugi.core.membership import Membership, moved_nodes, read_membership, write_membership
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import Settings
from kintsugi.db.store import Store
from kintsugi.environments.platforms import platform_of
from kintsugi.infra.terraform import Terraform
from kintsugi.installation.installation_lock import hold_installation_lock
from kintsugi.installation.progress import Progress
from kintsugi.installation.restore import require_no_restore
from kintsugi.operations.context import Context
from kintsugi.pipeline.schema import ensure_topics_and_tables
from kintsugi.releases import bootstrap

if TYPE_CHECKING:
    from rich.console import Console

# Everything that may be in the state directory. Nothing else is ever deleted.
PARTS = (
    *("control", "nodes", "volumes", "quarantine", "spool", "run", "restore", "restore.old"),
    *("secrets", "lock"),
)
READY = Path("/run/kintsugi-up")  # what docker-compose.yaml asks for
LOOK_S = 2.0
RETRY_S = 10.0
_KEPT_TO_THE_END = ("secrets", "lock")


def start_installation(settings: Settings, console: Console | None = None) -> ControlPlane:
    """Start everything that doesn't run yet; returns when Airflow, the fleet and the tables are ready.

    After an interruption, a repetition continues. Raises PreflightError before anything is started, StepFailed with the
    component and its log afterwards.
    """
    progress = Progress(console)
    require_no_restore(settings)
    with progress.step("preflight"):
        preflight.check_preflight(settings)
    with hold_installation_lock(settings):
        if settings.fleet.mutual_tls:
            create_authority(settings)
        else:
            remove_authority(settings)  # of a first start that ended before it made a node
        plane = ControlPlane(settings)
        with progress.step("Postgres, S3 and the log collector"):
            plane.start_storage()
        with progress.step("tables in Postgres"):
            Store(store_dsn(settings)).migrate()
        # Airflow's start is pure computing, the fleet's is mostly waiting for each other's gossip: side
        # by side.
        with ThreadPoolExecutor(max_workers=2) as lanes:
            futures = [
                lanes.submit(_up_fleet, settings, progress),
                lanes.submit(_up_airflow, plane, progress),
            ]
            for future in futures:
                future.result()
        return plane


def run_in_foreground(
    settings: Settings, console: Console | None = None, *, say: Callable[[], None], ready: Path = READY
) -> None:
    """Start the installation, wait for SIGTERM, then stop the control plane; the nodes keep running. For a container.

    A node that doesn't start doesn't end the control plane, whose recovery may recover it: the start is tried again.
    ``say`` is called when everything runs, and the file ``ready`` exists as long as it does. Raises the error of a
    control plane that doesn't start, and StepFailed if its supervisor is gone: the container is then restarted.
    """
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    ready.unlink(missing_ok=True)  # of a container that was killed
    plane = ControlPlane(settings)
    try:
        while not stopping.is_set() and not ready.exists():
            try:
                start_installation(settings, console)
            except Exception as error:  # of whatever kind: the fleet is not up
                if not plane.airflow.healthy():
                    raise
                print(f"kintsugi: {error}; trying again in {RETRY_S:.0f} s", file=sys.stderr)
                stopping.wait(RETRY_S)
            else:
                say()
                ready.touch()
        while not stopping.wait(LOOK_S):
            if not plane.supervisor.answers():
                raise StepFailed(f"the control plane's supervisor is gone: see {plane.supervisor.logs}")
    finally:
        ready.unlink(missing_ok=True)
    plane.stop()


def remove_installation(settings: Settings, console: Console | None = None) -> None:
    """Stop and remove everything of this installation, in any condition; the artifact cache stays.

    It may be repeated. Raises StepFailed if something survives, and KintsugiError within the container of
    `run_in_foreground`, which would start everything again.
    """
    if READY.exists():
        raise KintsugiError(
            "this container is the control plane and would start everything again: run `make docker-down` on its host"
        )
    if not settings.state.exists():
        return
    progress = Progress(console)
    with hold_installation_lock(settings):
        plane = ControlPlane(settings)
        with progress.step("stop Airflow"):
            plane.stop_airflow()
        with progress.step("destroy the nodes"):
            _destroy_nodes(settings, plane)
        with progress.step("stop Postgres, S3 and the log collector"):
            plane.stop()
        with progress.step("remove the state"):
            _remove_state(settings)


def _up_fleet(settings: Settings, progress: Progress) -> None:
    store = Store(store_dsn(settings))
    record_members(settings, store.node_releases())
    if warning := describe_moved(settings):
        progress.say(warning)
    fleet = settings.fleet
    context = Context(settings=settings, fleet=fleet, store=store)
    with progress.step(f"Terraform: {len(fleet.nodes)} nodes"):
        terraform = Terraform(settings)
        platform_of(settings).make_room(fleet.nodes, terraform.known, living=False)
        terraform.apply_all()
        _power_on(settings)
    with progress.step("Ansible: configure and start the services"):
        running = bootstrap.start_fleet(context)
    with progress.step("topics and tables"):
        ensure_topics_and_tables(fleet)
    progress.say(f"{running}: {bootstrap.mark_first_known_good(context)}")


def _up_airflow(plane: ControlPlane, progress: Progress) -> None:
    with progress.step("Airflow: database"):
        if not plane.airflow.healthy():
            plane.migrate()
    with progress.step("Airflow: start"):
        plane.start_airflow()


def record_members(settings: Settings, configured: Collection[str]) -> None:
    """Record which nodes are in force, unless that is on record; see `kintsugi.core.membership`.

    ``configured``: the nodes that have been configured before. Without any the fleet is new, and has every declared
    node. Raises FleetError if one of them is not declared.
    """
    if read_membership(settings.control) is not None:
        return
    declared = settings.declared_fleet
    if missing := sorted(set(configured) - declared.nodes.keys()):
        raise FleetError(
            f"{settings.fleet_file} does not declare {', '.join(missing)}, which exists: put it back, run `make up`, "
            "then remove it again and run `make scale-fleet`"
        )
    members = {name: node for name, node in declared.nodes.items() if not configured or name in configured}
    write_membership(settings.control, Membership(members))


def describe_moved(settings: Settings) -> str:
    """Return a line about edits that are not in force, and what to do; empty if there are none."""
    moved = moved_nodes(settings.declared_fleet, read_membership(settings.control))
    if not moved:
        return ""
    return (
        f"{settings.fleet_file} has another role, host, address, port or zone for {', '.join(moved)}: that is not in "
        "force, the nodes stay as they were made. Put it back. To move a node, add one with another name, delete this "
        "line, and run `make scale-fleet`. Zones of Kafka and Spark change by a roll-out (deploy_release)"
    )


def _power_on(settings: Settings) -> None:
    """Boot the nodes that Terraform knows and that don't run, as after a restart of the machine."""
    platform = platform_of(settings)
    dead = [name for name in settings.fleet.nodes if not platform.running(name)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(platform.power_on, dead))


def _destroy_nodes(settings: Settings, plane: ControlPlane) -> None:
    """Destroy the nodes by Terraform if its state can be read; then all that are on disk, known to it or not."""
    if plane.postgres.accepts():
        with contextlib.suppress(KintsugiError, OSError):
            Terraform(settings).destroy_all(timeout_s=60)
    platform_of(settings).remove_all()


def _remove_state(settings: Settings) -> None:
    def remove_parts(parts: tuple[str, ...]) -> bool:
        for part in parts:
            path = settings.state / part
            shutil.rmtree(path, ignore_errors=True)
            if path.exists() and not path.is_dir():
                path.unlink()
        return not any((settings.state / part).exists() for part in parts)

    # A log that is being written may appear again, so removal is repeated until it stays away.
    if not wait_until(
        lambda: remove_parts(tuple(part for part in PARTS if part not in _KEPT_TO_THE_END)), 10
    ):
        raise StepFailed(
            f"{settings.state} is not removed, because a process still writes into it. Run `make down` again; "
            f"if it fails again, `lsof +D {settings.state}` names the process to end"
        )
    remove_parts(_KEPT_TO_THE_END)
    with contextlib.suppress(OSError):
        settings.state.rmdir()  # it stays if the user has files of their own in it

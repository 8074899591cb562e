"""Network faults, gray faults and faults of the control plane: how each is injected and undone.

In most of them every node is healthy and only the view of it is disturbed: the recovery must leave it alone.
Each fault ends by itself or is undone after ``hold_s`` seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from kintsugi.chaos import mounts, network, resources, service_processes
from kintsugi.chaos.faults import Act, Fault, on_each, power_off
from kintsugi.chaos.network import DELAY_S, LOSS, NetworkFault
from kintsugi.controlplane.postgres import Postgres
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.incident import Action
from kintsugi.core.processes import carries_marker, find_listener, is_running_in, signal_if, wait_until
from kintsugi.operations.context import Context

NETWORK_S = 45.0
MARGIN_S = 15.0  # a network rule expires this long after the fault should have been undone
STALL_S = 17.0
STARVED_S = 45.0
SLOW_DISK_S = 60.0
FULL_S = 60.0
CRASH_EVERY_S = 180.0
CRASHES = 8  # more than the six unexplained exits an hour of kintsugi.notify.recurring_failures
APPLY_DEADLINE_S = 120.0
_LOOK_EVERY_S = 0.05


# --- network ----------------------------------------------------------------------------------------------


def _impose_network_fault(fault: NetworkFault) -> Act:
    def impose_on_node(context: Context, name: str) -> None:
        node = context.fleet.node(name)
        ends_at = datetime.now(UTC) + timedelta(seconds=NETWORK_S + MARGIN_S)
        if fault is NetworkFault.DELAY:
            _start_delay(context, name)
        network.impose_fault(fault, node, ends_at)

    return on_each(impose_on_node)


def _restore_network(context: Context, name: str) -> None:
    network.remove_fault(name)
    resources.end_processes(_delay_owner(context, name))


def _delay_owner(context: Context, name: str) -> str:
    return f"{context.settings.state}/{name}"


def _start_delay(context: Context, name: str) -> None:
    """Start the process that delays the packets; it ends by itself. Raises StepFailed if it can't read the queue."""
    command = [sys.executable, "-m", "kintsugi.chaos.packet_delay", str(network.queue_of(name))]
    process = subprocess.Popen(
        [*command, str(DELAY_S), str(NETWORK_S + MARGIN_S)],
        env={**os.environ, resources.MARK: _delay_owner(context, name)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.kill()
        raise StepFailed(f"{name}: the packets can't be delayed; check that the kernel has nfnetlink_queue")


def _no_network_fault(context: Context) -> str | None:
    return network.reason_unavailable(context.settings.fleet.environment)


def _network_fault(fault: NetworkFault, what: str, mode: str) -> Fault:
    return Fault(f"network_{fault.value}", what, _impose_network_fault(fault), on_each(_restore_network), mode,
                 unavailable=_no_network_fault, hold_s=NETWORK_S, kills=False)  # fmt: skip


# --- stalls, a starved machine, slow and missing disks ----------------------------------------------------


def _stop_services(context: Context, names: Sequence[str]) -> None:
    service_processes.stop_services(context.settings, [context.fleet.node(name) for name in names])


def _continue_services(context: Context, names: Sequence[str]) -> None:
    service_processes.continue_services(context.settings, [context.fleet.node(name) for name in names])


def _suspend_host(context: Context, name: str) -> None:
    context.platform().suspend(name)


def _resume_host(context: Context, name: str) -> None:
    context.platform().resume(name)


def _starve_machine(context: Context, names: Sequence[str]) -> None:
    resources.start_busy_loops(STARVED_S, str(context.settings.state))


def _end_starvation(context: Context, names: Sequence[str]) -> None:
    resources.end_processes(str(context.settings.state))


def _slow_disk(context: Context, name: str) -> None:
    resources.slow_disk(context.settings, name)


def _restore_disk_speed(context: Context, name: str) -> None:
    resources.restore_disk_speed(context.settings, name)


def _unmount_volume(context: Context, name: str) -> None:
    """Unmount the volume, and kill the service: with its open files it would not notice."""
    mounts.unmount_volume(context.settings, name)
    service_processes.kill_service(context.settings, context.fleet.node(name))


def _mount_volume(context: Context, name: str) -> None:
    mounts.mount_volume(context.settings, name)


def _kill_service(context: Context, name: str) -> None:
    service_processes.kill_service(context.settings, context.fleet.node(name))


# --- the control plane ------------------------------------------------------------------------------------


def _signal_listener(context: Context, port: int, number: signal.Signals) -> None:
    """Signal the process of our control plane that listens on ``port``; raises StepFailed when there is none."""
    process = find_listener(context.settings.fleet.control_plane.address, port)
    control = context.settings.control
    if process is None or process.pid is None:
        raise StepFailed(f"no process of the control plane listens on port {port}")
    if not signal_if(process.pid, number, lambda pid: carries_marker(pid, control)):
        raise StepFailed(f"{process} listens on port {port} and is not part of this control plane")


def _stop_s3(context: Context, names: Sequence[str]) -> None:
    """The port of a stopped process still accepts connections: clients wait for an answer."""
    _signal_listener(context, context.settings.fleet.control_plane.s3_port, signal.SIGSTOP)
    on_each(power_off)(context, names)


def _continue_s3(context: Context, names: Sequence[str]) -> None:
    _signal_listener(context, context.settings.fleet.control_plane.s3_port, signal.SIGCONT)


def _fill_control_plane(context: Context, names: Sequence[str]) -> None:
    mounts.fill_control_plane(context.settings)
    on_each(power_off)(context, names)


def _free_control_plane(context: Context, names: Sequence[str]) -> None:
    mounts.free_control_plane(context.settings)


def _kill_postgres_in_apply(context: Context, names: Sequence[str]) -> None:
    """Power the node off; kill Postgres when the journal shows that Terraform applies.

    Raises StepFailed when no recovery gets that far.
    """
    began = datetime.now(UTC)
    on_each(power_off)(context, names)

    def is_applying() -> bool:
        since = [one for one in context.store.read_incidents(None, open_only=True) if one.node in names]
        return any(entry.step == "provision" and entry.at >= began for one in since for entry in one.entries)

    if not wait_until(is_applying, APPLY_DEADLINE_S, pause=_LOOK_EVERY_S):
        raise StepFailed(f"no recovery of {', '.join(names)} applied a plan within {APPLY_DEADLINE_S:.0f} s")
    server = Postgres.of(context.settings)
    pid = server.pid()
    if pid is None or not signal_if(pid, signal.SIGKILL, lambda number: is_running_in(number, server.data)):
        raise StepFailed("Postgres of the control plane does not run")
    await_store(context)


def await_store(context: Context, deadline_s: float = 60.0) -> None:
    """Wait until Postgres answers after its restart by the supervisor; raises its error at the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        try:
            context.store.read_faults(1)
        except KintsugiError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
        else:
            return


def _needs_own_processes(context: Context) -> str | None:
    environment = context.settings.fleet.environment
    return (
        None
        if environment == "local"
        else f"processes of the environment {environment} are not visible from here"
    )


def _if_local(unavailable: Callable[[Context], str | None]) -> Callable[[Context], str | None]:
    return lambda context: _needs_own_processes(context) or unavailable(context)


_NODE = Action.REBUILD_NODE

GRAY_FAULTS: Sequence[Fault] = (
    _network_fault(NetworkFault.REJECT, "a firewall resets new connections to its service and sshd", "reset"),
    _network_fault(NetworkFault.DROP, "a firewall drops new connections to its service and sshd", "silent"),
    _network_fault(NetworkFault.ONE_WAY, "packets that its service and sshd send are lost", "silent"),
    _network_fault(NetworkFault.DELAY, f"each packet to it takes {DELAY_S * 1000:.0f} ms longer", "silent"),
    _network_fault(NetworkFault.LOSS, f"{LOSS:.0%} of its packets are lost", "silent"),
    Fault("stalled", f"the services stall for {STALL_S:.0f} s at the same time", _stop_services, _continue_services,
          "silent", unavailable=_needs_own_processes, hold_s=STALL_S, kills=False),
    Fault("hosts_stalled", f"the whole nodes stall for {STALL_S:.0f} s at the same time", on_each(_suspend_host),
          on_each(_resume_host), "silent", hold_s=STALL_S, kills=False),
    Fault("starved", f"{resources.LOOPS} busy loops use the machine's processors for {STARVED_S:.0f} s",
          _starve_machine, _end_starvation, "silent", unavailable=_needs_own_processes, hold_s=STARVED_S, kills=False),
    Fault("slow_disk", f"its disk takes {resources.SLOW_DISK_BYTES_PER_S // 1024} KiB/s for {SLOW_DISK_S:.0f} s",
          on_each(_slow_disk), on_each(_restore_disk_speed), "silent", hold_s=SLOW_DISK_S, kills=False,
          unavailable=lambda context: resources.slow_disk_unavailable(context.settings)),
    Fault("volume_unmounted", "its volume is unmounted and the service crashes", on_each(_unmount_volume),
          on_each(_mount_volume), cost=_NODE, unavailable=lambda context: mounts.unmount_unavailable(context.settings)),
    Fault("s3_hangs", "a node dies while S3 accepts connections and does not answer", _stop_s3, _continue_s3,
          outlasts_repair=True, cost=_NODE, unavailable=_needs_own_processes),
    Fault("control_disk_full", f"a node dies, and for {FULL_S:.0f} s Terraform and Ansible can't write",
          _fill_control_plane, _free_control_plane, hold_s=FULL_S, cost=_NODE,
          unavailable=_if_local(lambda _: mounts.full_disk_unavailable())),
    Fault("postgres_killed", "a node dies, and Postgres is killed while Terraform applies", _kill_postgres_in_apply,
          cost=_NODE, unavailable=_needs_own_processes),
    Fault("crash_loop", f"its service is killed {CRASHES} times, once every {CRASH_EVERY_S:.0f} s",
          on_each(_kill_service), hold_s=CRASH_EVERY_S * (CRASHES - 1) + 1, every_s=CRASH_EVERY_S,
          unavailable=_needs_own_processes),
)  # fmt: skip

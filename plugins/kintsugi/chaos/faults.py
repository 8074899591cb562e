"""The faults that can be injected: how each is injected into its victims, and how it is undone.

A fault is injected from outside (power, disk, a frozen host), or over SSH as a person or a broken part could do it.
The recovery gets no information about it. Undoing is safe at any time, also for a fault that was never injected: the
janitor (`kintsugi.chaos.janitor`) undoes it whatever happens to the experiment. Network faults and gray faults are
in `kintsugi.chaos.gray_faults`. `kintsugi.chaos.registry` contains all faults.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch

from kintsugi.chaos.logs import (
    COMMIT_LOG,
    damage_entry,
    damage_marker,
    damage_middle,
    lose_last_bytes,
    lose_unsynced_section,
)
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.environments.node_files import NodeFile, files_in, names_in
from kintsugi.operations.context import Context
from kintsugi.probes.observe import SERVICES

Act = Callable[[Context, Sequence[str]], None]

DRIVER = "stream-trades"
PAUSE_S = 5.0  # never an incident
SLOW_S = 25.0
CLOCK_AHEAD = "+1h"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of failure.

    ``mode``: whether connections are reset at once or get no answer. ``outlasts_repair``: the repair must end while the
    fault is still active. ``unavailable``: why the fault can't be injected here, None when it can. ``hold_s``: how
    long the fault is active before it is undone; None: until the end of the experiment. ``every_s``: seconds after
    which ``make`` is repeated while the fault is held. ``cost``: the most expensive repair that this fault can need;
    the guards must allow it before the fault is injected. ``kills``: whether injecting or undoing it ends processes of
    the victims, so that the recovery is not blamed for their end.
    """

    kind: str
    what: str
    make: Act
    take_back: Act | None = None
    mode: str = "reset"
    outlasts_repair: bool = False
    unavailable: Callable[[Context], str | None] = lambda _: None
    hold_s: float | None = None
    every_s: float | None = None
    cost: Action = Action.RESTART
    kills: bool = True


def on_each(act: Callable[[Context, str], None]) -> Act:
    """Act on all victims at the same time: they fail together, not one after another."""

    def act_on_all(context: Context, names: Sequence[str]) -> None:
        failures: list[Exception] = []

        def act_guarded(name: str) -> None:
            try:
                act(context, name)
            except Exception as error:  # noqa: BLE001 - raised by the caller's thread
                failures.append(error)

        threads = [threading.Thread(target=act_guarded, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    return act_on_all


def _service_of(context: Context, name: str) -> str:
    return SERVICES[context.fleet.node(name).role]


def _kill_process(context: Context, name: str) -> None:
    context.platform().signal_service(name, _service_of(context, name), "KILL")


def _kill_driver(context: Context, name: str) -> None:
    context.platform().signal_service(name, DRIVER, "KILL")


def _kill_sshd(context: Context, name: str) -> None:
    with suppress(KintsugiError):  # the session that sends the signal ends with its sshd
        context.platform().signal_service(name, "sshd", "KILL")


def _freeze_service(context: Context, name: str) -> None:
    context.platform().signal_service(name, _service_of(context, name), "STOP")


def _thaw_service(context: Context, name: str) -> None:
    with suppress(KintsugiError):  # the node or its service is gone, so nothing is frozen
        context.platform().signal_service(name, _service_of(context, name), "CONT")


def power_off(context: Context, name: str) -> None:
    context.platform().power_off(name)


def _lose_volume(context: Context, name: str) -> None:
    context.platform().power_off(name)
    context.platform().lose_volume(name)


def _lose_volume_silently(context: Context, name: str) -> None:
    """Freeze the node, then remove its disk: its processes hang in I/O on a lost disk.

    The disk is moved away. A frozen process keeps its open files, but no other process finds the disk.
    """
    context.platform().suspend(name)
    context.platform().lose_volume(name)


def _lose_data(context: Context, name: str) -> None:
    """Empty the data directory under the running service, and let the service notice at once."""
    context.platform().run(name, ["find", _data_directory(context, name), "-mindepth", "1", "-delete"])
    _kill_process(context, name)


def _data_directory(context: Context, name: str) -> str:
    return str(context.settings.node_volume(name) / "data")


def _freeze_node(context: Context, name: str) -> None:
    context.platform().suspend(name)


def _thaw_node(context: Context, name: str) -> None:
    context.platform().resume(name)


def _pause_node(context: Context, name: str) -> None:
    context.platform().suspend(name)
    time.sleep(PAUSE_S)
    context.platform().resume(name)


def _slow_node(context: Context, name: str) -> None:
    """Take the processor from the node for four fifths of the time."""
    platform, until = context.platform(), time.monotonic() + SLOW_S
    while time.monotonic() < until:
        platform.suspend(name)
        time.sleep(0.8)
        platform.resume(name)
        time.sleep(0.2)


def _write_wrong_config(context: Context, name: str) -> None:
    """A person's mistake: write a wrong value into the active file, and restart the service."""
    etc, role = context.settings.node_root(name) / "etc", context.fleet.node(name).role
    wrong = {
        Role.KAFKA: ("s/:9092/:9992/g", [f"{etc}/kafka/server.properties"]),
        Role.CASSANDRA: (
            "s/^-Xm[sx].*/-Xmx1m/",
            [f"{etc}/cassandra/form.options", f"{etc}/cassandra/replace.options"],
        ),
    }
    # Spark's services have no file other than their definition.
    expression, files = wrong.get(role, ("s/-Xmx[0-9]*m/-Xmx1m/", [_definition_file(context, name)]))
    context.platform().run(name, ["sed", "-i", expression, *files])
    if role in wrong:
        _kill_process(context, name)
    else:
        _reload_init(context, name)


def _corrupt_log(context: Context, name: str) -> None:
    """Write noise into the newest log, where the service reads it at its start, and kill the service."""
    cassandra = context.fleet.node(name).role is Role.CASSANDRA
    _damage_newest_log(context, name, damage_marker if cassandra else damage_middle)


def _corrupt_entry(context: Context, name: str) -> None:
    _damage_newest_log(context, name, damage_entry)


def _damage_newest_log(context: Context, name: str, damage: Callable[[NodeFile], bool]) -> None:
    """Damage the newest log that allows it, from outside, and kill the service."""
    if not any(damage(log) for log in reversed(_log_files(context, name))):
        raise StepFailed(f"{name}: no log contains data that can be damaged")
    _kill_process(context, name)


def _lose_tail(context: Context, name: str) -> None:
    """A power cut that loses unsynced data of the logs. The host is off, so its disk is changed from outside."""
    context.platform().power_off(name)
    lose = lose_unsynced_section if context.fleet.node(name).role is Role.CASSANDRA else lose_last_bytes
    if not [log for log in _log_files(context, name) if lose(log)]:
        raise StepFailed(f"{name}: no log contains unsynced data that can be lost")


def _log_files(context: Context, name: str) -> list[NodeFile]:
    """The logs that the service reads at its start, oldest first: Kafka's segments, Cassandra's commit log."""
    volume = context.settings.node_volume(name)
    if context.fleet.node(name).role is Role.CASSANDRA:
        found = [log for log in files_in(volume, "data/cassandra/commitlog") if fnmatch(log.name, COMMIT_LOG)]
    else:
        partitions = [part for part in names_in(volume, "data/kafka") if part.startswith("trades-")]
        segments = files_in(volume, *(f"data/kafka/{part}" for part in partitions))
        found = [log for log in segments if log.name.endswith(".log")]
    return sorted(found, key=lambda log: log.name)


def _fill_disk(context: Context, name: str) -> None:
    """Fill the disk completely and restart the service on it; its existing data is kept."""
    context.platform().fill_disk(name)
    _kill_process(context, name)


def _free_disk(context: Context, name: str) -> None:
    if context.platform().free_disk(name):
        with suppress(KintsugiError):  # its service may be down now; its init restarts it
            _kill_process(context, name)


def _set_clock_ahead(context: Context, name: str) -> None:
    """A wrong clock, as from a wrong image: the service is started with a shifted clock."""
    platform, library = context.platform(), _faketime_library(context)
    if library is None:
        raise StepFailed(_NO_FAKETIME)
    # Without the last two a JVM's timed waits end at once: it uses all processors and never starts.
    fake = {
        "LD_PRELOAD": library,
        "FAKETIME": CLOCK_AHEAD,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }
    wrong = "environment = " + ",".join(f'{key}="{value}"' for key, value in fake.items())
    platform.run(name, ["sed", "-i", "/libfaketime/d", _definition_file(context, name)])
    platform.run(name, ["sed", "-i", f"$ a {wrong}", _definition_file(context, name)])
    _reload_init(context, name)


def _correct_clock(context: Context, name: str) -> None:
    with suppress(KintsugiError):  # the node is gone, so its clock is too
        context.platform().run(name, ["sed", "-i", "/libfaketime/d", _definition_file(context, name)])
        _reload_init(context, name)


def _reload_init(context: Context, name: str) -> None:
    """Let the node's init read changed definitions; it restarts only the programs whose definition changed."""
    etc = context.settings.node_root(name) / "etc"
    context.platform().run(name, ["supervisorctl", "-c", f"{etc}/supervisord.conf", "update"])


def _definition_file(context: Context, name: str) -> str:
    return str(
        context.settings.node_root(name) / "etc" / "supervisor.d" / f"{_service_of(context, name)}.conf"
    )


_NO_FAKETIME = "libfaketime is not installed on the nodes: run `apt-get install libfaketime`"


def _faketime_library(context: Context) -> str | None:
    """The path of libfaketime on the first node that answers; None when it is not installed."""
    for node in context.fleet:
        with suppress(KintsugiError):
            output = context.platform().run(node.name, ["find", "/usr/lib", "-name", "libfaketime.so.1"])
            return output.strip().partition("\n")[0] or None
    return None


def _stop_storage(context: Context, names: Sequence[str]) -> None:
    plane = ControlPlane(context.settings)
    plane.supervisor.stop(plane.objects.program().name)
    on_each(power_off)(context, names)


def _start_storage(context: Context, names: Sequence[str]) -> None:
    plane = ControlPlane(context.settings)
    plane.supervisor.start(plane.objects.program().name)


_DISK, _NODE = Action.REBUILD, Action.REBUILD_NODE

SERVER_FAULTS: Sequence[Fault] = (
    Fault("process_killed", "its service is killed", on_each(_kill_process)),
    Fault("driver_killed", "the streaming driver is killed", on_each(_kill_driver), kills=False),
    Fault("sshd_killed", "sshd is killed while the service runs", on_each(_kill_sshd), kills=False),
    Fault("power_off", "the whole node loses its power", on_each(power_off), cost=_NODE),
    Fault("volume_lost", "the node and its disk are lost", on_each(_lose_volume), cost=_DISK),
    Fault("volume_lost_silent", "the node is frozen and its disk is lost",
          on_each(_lose_volume_silently), on_each(_thaw_node), mode="silent", cost=_DISK, kills=False),
    Fault("data_lost", "the data directory is emptied under the service", on_each(_lose_data), cost=_DISK),
    Fault("hung", "the service is frozen", on_each(_freeze_service), on_each(_thaw_service), mode="silent",
          kills=False),
    Fault("host_hung", "the whole node is frozen", on_each(_freeze_node), on_each(_thaw_node), mode="silent",
          cost=_NODE, kills=False),
    Fault("paused", f"the whole node is paused for {PAUSE_S:.0f} s", on_each(_pause_node),
          on_each(_thaw_node), "silent", kills=False),
    Fault("slow", f"the node gets a fifth of its processor for {SLOW_S:.0f} s", on_each(_slow_node),
          on_each(_thaw_node), kills=False),
    Fault("wrong_config", "a person pushes a wrong configuration", on_each(_write_wrong_config)),
    Fault("corrupt_log", "the newest log is damaged and the service crashes", on_each(_corrupt_log), cost=_DISK),
    Fault("corrupt_entry", "an entry of the commit log is damaged and the service crashes", on_each(_corrupt_entry)),
    Fault("disk_full", "its disk is full and the service crashes", on_each(_fill_disk), on_each(_free_disk),
          unavailable=lambda context: context.platform().no_full_disk(), cost=_DISK),
    Fault("clock_wrong", "its service is started with a clock that is an hour fast",
          on_each(_set_clock_ahead), on_each(_correct_clock),
          unavailable=lambda context: None if _faketime_library(context) else _NO_FAKETIME),
    Fault("tail_lost", "a power cut loses the unsynced tail of the logs", on_each(_lose_tail), cost=_NODE),
    Fault("storage_away", "a node dies while S3 is down", _stop_storage, _start_storage, outlasts_repair=True,
          cost=_NODE),
)  # fmt: skip

"""The platform of an environment: power and disks of its nodes. Nothing else differs between environments at run time.

There are ``local``, ``docker`` and ``hosts``; ``aws`` is to implement the same interface with its own API.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from kintsugi.core.errors import NewIncarnation
from kintsugi.core.observation import ServiceProcess


class Platform(Protocol):
    """Power and disks of the nodes, by node name."""

    def obstacles(self) -> Iterator[str]:
        """Yield a line for each reason why nodes can't run here; it says what to do. Nothing if they can."""

    def power_on(self, name: str) -> None:
        """Boot a node that Terraform created and that doesn't run; a running one is left alone. Raises StepFailed."""

    def running(self, name: str) -> bool:
        """Whether the node runs; a suspended one does."""

    def incarnation(self, name: str) -> str | None:
        """Return which incarnation of the node runs (a process or container, and its start); None if none runs.

        Raises StepFailed if the platform can't tell.
        """

    def processor_use(self, name: str) -> tuple[float, float] | None:
        """Return for how many seconds the node has used the processor, and waited for it; None if unknown."""

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        """Remove what a killed Terraform left of these nodes, so that they can be created.

        ``known`` returns the ids in Terraform's state; it is called only if needed. Raises StepFailed if something that
        was left runs, unless ``living``.
        """

    def remove_all(self) -> None:
        """End and remove every node of the installation, also those that Terraform doesn't know."""

    def power_off(self, name: str, expected: str | None = None) -> None:
        """End the node at once; returns when nothing of it runs. Its volume stays.

        ``expected``: the incarnation that the guards evaluated, empty if none ran. Raises NewIncarnation, and ends
        nothing, if another one runs.
        """

    def lose_volume(self, name: str) -> None:
        """Remove the node's disk, as if it had broken."""

    def volume_exists(self, name: str) -> bool:
        """Whether the node's disk still exists."""

    def volume_formatted(self, name: str, mark: str | None) -> bool | None:
        """Whether the node's disk has data: the file or directory ``mark`` within three levels (None: any disk).

        The platform reads the disk itself, not through the node. None if it can't be read.
        """

    def discard(self, name: str) -> None:
        """Delete the quarantine of the node's predecessors, after the node is verified."""

    def hold(self, name: str, until: datetime) -> bool:
        """Hold the quarantine of the predecessors until then (UTC), also from `discard`; False if it is empty."""

    def suspend(self, name: str) -> None:
        """Suspend the whole node: its addresses stay, and nothing answers."""

    def resume(self, name: str) -> None:
        """Let a suspended node go on; one that isn't suspended, or is gone, is left alone."""

    def fill_disk(self, name: str) -> None:
        """Fill the node's disk, so that no byte is free. Raises StepFailed if that can't be done here."""

    def free_disk(self, name: str) -> bool:
        """Undo `fill_disk`; returns False if the disk wasn't filled, or the node is gone."""

    def no_full_disk(self) -> str | None:
        """Return why no node's disk can be filled here; None if it can."""

    def run(self, name: str, argv: Sequence[str]) -> str:
        """Run a command on the node, without a shell; returns its output. Raises StepFailed if it fails."""

    def renew_host_certificate(self, name: str) -> None:
        """Let the present authority of SSH certify the node's host key, and its sshd show that; connections stay.

        Raises StepFailed if the node can't be reached; a repetition continues.
        """

    def signal_service(self, name: str, service: str, signal: str) -> None:
        """Let the node's init send a signal ("KILL", "STOP", "CONT") to one of its services."""

    def kill_service(self, name: str, process: ServiceProcess) -> None:
        """SIGKILL to exactly this process of the node if its service doesn't answer; its init starts it again.

        The node probes its service itself right before. Raises NodeReturned if it answers, and NewIncarnation if that
        process is gone: the guards didn't evaluate its successor.
        """


def require_incarnation(name: str, expected: str | None, read: Callable[[], str | None]) -> None:
    """Raise NewIncarnation if another incarnation of the node runs than the one that the guards evaluated.

    ``expected``: "" if none ran then; None: any may be ended. ``read``: returns the one that runs, None if none does.
    """
    if expected is not None and (current := read()) not in (None, expected):
        raise NewIncarnation(
            f"{name} was started again (now {current}) since the guards evaluated it ({expected or 'not running'}). "
            "Nothing was killed; the guards are evaluated again"
        )

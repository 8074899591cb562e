"""What lies beneath a node's SSH: the only thing that differs between environments at run time.

``local`` and ``docker`` stand today; ``aws`` will give the same answers from its own API.
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
        """What stands in the way of running nodes here, a line each that says what to do; none: all is well."""

    def power_on(self, name: str) -> None:
        """Boot a node that Terraform made and that doesn't live; a living one stays as it is. Raises StepFailed."""

    def running(self, name: str) -> bool:
        """Whether the node lives, be it frozen."""

    def incarnation(self, name: str) -> str | None:
        """Which life of the node runs (a process and its start, a container and its start); None when none runs.

        Raises StepFailed when the platform can't say.
        """

    def processor_use(self, name: str) -> tuple[float, float] | None:
        """Seconds of processor time that the node used, and that it waited for, so far; None when not to be had."""

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        """Remove what a Terraform that was killed left in the place of these nodes, so that they can be made.

        ``known`` tells the ids in Terraform's state; it is asked where it matters. Raises StepFailed where what was
        left lives, unless ``living``.
        """

    def remove_all(self) -> None:
        """End and remove every node of the installation, whatever Terraform knows of them."""

    def power_off(self, name: str, expected: str | None = None) -> None:
        """End the node at once and return when nothing of it lives; its volume stays.

        ``expected``: the incarnation that was judged, empty where none ran.

        Raises NewIncarnation, and ends nothing, when another one runs.
        """

    def lose_volume(self, name: str) -> None:
        """Take the node's disk away, as a broken disk would."""

    def volume_exists(self, name: str) -> bool:
        """Whether the node's disk is still there."""

    def volume_formatted(self, name: str, mark: str | None) -> bool | None:
        """Whether the node's disk holds data: the file or directory ``mark`` within three levels (None: any disk).

        The platform looks at the disk itself, not through the node. None when it can't be read.
        """

    def discard(self, name: str) -> None:
        """Delete what is kept of the node's predecessors, now that it is verified."""

    def hold(self, name: str, until: datetime) -> bool:
        """Keep what there is of the node's predecessors until then (UTC), also from `discard`; False: nothing is."""

    def suspend(self, name: str) -> None:
        """Freeze the whole node: its addresses stay, and nobody answers."""

    def resume(self, name: str) -> None:
        """Let a frozen node go on; one that isn't frozen, or is gone, stays as it is."""

    def fill_disk(self, name: str) -> None:
        """Leave no free byte on the node's disk. Raises StepFailed when that can't be done here."""

    def free_disk(self, name: str) -> bool:
        """Take back what filled the node's disk; False when it wasn't filled, or is gone."""

    def no_full_disk(self) -> str | None:
        """Why no node here can be given a full disk; None when it can."""

    def run(self, name: str, argv: Sequence[str]) -> str:
        """Run a command on the node, without a shell; returns what it printed. Raises StepFailed when it fails."""

    def signal_service(self, name: str, service: str, signal: str) -> None:
        """Let the node's init send a signal ("KILL", "STOP", "CONT") to one of its services."""

    def kill_service(self, name: str, process: ServiceProcess) -> None:
        """SIGKILL to exactly this process of the node; its init starts the service again.

        Raises NewIncarnation when that process is gone: another life of the service was not judged.
        """


def require_incarnation(platform: Platform, name: str, expected: str | None) -> None:
    """Raise NewIncarnation when another life of the node runs than the one that was judged."""
    if expected is not None and (found := platform.incarnation(name)) not in (None, expected):
        raise NewIncarnation(
            f"{name}: {found} runs, but {expected or 'none'} was judged; judge again before it is ended"
        )

"""What lies beneath a node's SSH: the only thing that differs between environments at run time.

``local`` is what stands today; ``docker`` and ``aws`` will give the same four answers from their own APIs.
"""

from __future__ import annotations

from typing import Protocol

from kintsugi.errors import FleetError
from kintsugi.settings import Settings


class Platform(Protocol):
    """Power and disks of the nodes, by node name."""

    def power_off(self, name: str) -> None:
        """End the node at once and return when nothing of it lives; its volume stays."""

    def lose_volume(self, name: str) -> None:
        """Take the node's disk away, as a broken disk would."""

    def volume_exists(self, name: str) -> bool:
        """Whether the node's disk is still there."""

    def discard(self, name: str) -> None:
        """Delete what is kept of the node's predecessors, now that it is verified."""


class LocalPlatform:
    """Nodes as process trees of this machine (kintsugi.local.node)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def power_off(self, name: str) -> None:
        from kintsugi.local import node

        node.power_off(self.settings, name)

    def lose_volume(self, name: str) -> None:
        from kintsugi.local import node

        node.destroy_volume(self.settings, name)

    def volume_exists(self, name: str) -> bool:
        from kintsugi.local import node

        return node.volume_exists(self.settings, name)

    def discard(self, name: str) -> None:
        from kintsugi.local import node

        node.purge_quarantine(self.settings, name)


def platform_of(settings: Settings) -> Platform:
    """The platform of the fleet's environment; raises FleetError for one that isn't built yet."""
    environment = settings.fleet.environment
    if environment != "local":
        raise FleetError(f"environment {environment!r} can't run nodes yet; set 'environment: local'")
    return LocalPlatform(settings)

"""The platform of an installation."""

from __future__ import annotations

from kintsugi.core.errors import FleetError
from kintsugi.core.settings import Settings
from kintsugi.environments.base import Platform
from kintsugi.environments.hosts.platform import HostsPlatform
from kintsugi.environments.local.platform import LocalPlatform


def platform_of(settings: Settings) -> Platform:
    """Return the platform of the fleet's environment; raises FleetError for an unknown environment."""
    environment = settings.fleet.environment
    if environment == "local":
        return LocalPlatform(settings)
    if environment == "docker":
        from kintsugi.environments.docker.platform import DockerPlatform  # docker

        return DockerPlatform(settings)
    if environment == "hosts":
        return HostsPlatform(settings)
    raise FleetError(
        f"environment {environment!r} is not supported; set 'environment:' to local, docker or hosts"
    )

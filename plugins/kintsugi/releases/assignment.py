"""Which release each node is configured from, and which release is known-good. Recovery asks before it configures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kintsugi.core.fleet import load_fleet
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.infra.ansible import Ansible
from kintsugi.releases import archive

if TYPE_CHECKING:
    from kintsugi.db.releases import ReleaseRecord
    from kintsugi.db.store import Store
    from kintsugi.operations.context import Context
    from kintsugi.releases.archive import Release

log = logging.getLogger(__name__)


def recorded_release(store: Store, node: str) -> ReleaseRecord | None:
    """Return the release that ``node`` was last configured from; None if none is recorded."""
    return store.node_releases().get(node)


def has_unproven_release(store: Store, node: str) -> bool:
    """Whether ``node`` runs a release that isn't known-good, and a known-good release exists."""
    running = recorded_release(store, node)
    return running is not None and not running.known_good and store.last_known_good() is not None


def digest_to_configure_from(context: Context, node: str, *, roll_back: bool = False) -> str | None:
    """Return the digest to configure ``node`` from; None if no release is recorded, so from this checkout.

    Usually the node's own release, so that a recovery never deploys a new one. For ``roll_back``, or if the node's own
    release is marked bad, the last known-good release, if it knows the node: one that was added since can't be
    configured from it. Raises FleetError if that release is lost or altered.
    """
    running = recorded_release(context.store, node)
    if running is None or roll_back or running.bad_at is not None:
        good = context.store.last_known_good()
        if good is not None and _declares(context, good.digest, node):
            return good.digest
    return None if running is None else running.digest


def _declares(context: Context, digest: str, node: str) -> bool:
    return node in load_fleet(open_release(context, digest).fleet_file).nodes


def ansible_for(context: Context, node: str, *, roll_back: bool = False) -> Ansible:
    """Return Ansible with the roles and templates of the release to configure ``node`` from.

    Records the release for the node. Raises FleetError if the release is lost or altered.
    """
    digest = digest_to_configure_from(context, node, roll_back=roll_back)
    if digest is None:
        return Ansible(context.settings)
    release = open_release(context, digest)
    context.store.set_node_releases([node], digest)
    log.info("%s is configured from release %s", node, release.short)
    return Ansible(context.settings, release)


def open_release(context: Context, digest: str) -> Release:
    """Return the release, checked; from S3 if its directory is gone."""
    return archive.find_release(context.settings, digest, context.s3(S3Purpose.RELEASES))

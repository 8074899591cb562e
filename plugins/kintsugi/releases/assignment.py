"""Which release a node runs and which one is known-good: what recovery asks before it configures anything."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kintsugi.infra.ansible import Ansible
from kintsugi.releases import archive

if TYPE_CHECKING:
    from kintsugi.db.releases import ReleaseRecord
    from kintsugi.db.store import Store
    from kintsugi.operations.context import Context
    from kintsugi.releases.archive import Release

log = logging.getLogger(__name__)


def current(store: Store, node: str) -> ReleaseRecord | None:
    """What ``node`` was last configured from; None when nobody recorded it."""
    return store.node_releases().get(node)


def suspicious(store: Store, node: str) -> bool:
    """Whether ``node`` runs a release that isn't known-good while there is one to return to."""
    running = current(store, node)
    return running is not None and not running.known_good and store.last_known_good() is not None


def to_configure_from(store: Store, node: str, *, roll_back: bool = False) -> str | None:
    """The digest that ``node`` is to be configured from; None: nothing is on record, so from this checkout.

    The node's own release, so that a repair isn't a deployment in disguise; the last known-good one for ``roll_back``
    and where the node's own has been found bad.
    """
    running = current(store, node)
    if running is None or roll_back or running.bad_at is not None:
        good = store.last_known_good()
        if good is not None:
            return good.digest
    return None if running is None else running.digest


def ansible_for(context: Context, node: str, *, roll_back: bool = False) -> Ansible:
    """Ansible with the roles and templates of the release that ``node`` is to be configured from.

    Notes the release as the node's own. Raises FleetError when the release is lost or altered.
    """
    digest = to_configure_from(context.store, node, roll_back=roll_back)
    if digest is None:
        return Ansible(context.settings)
    release = open_release(context, digest)
    context.store.set_node_releases([node], digest)
    log.info("%s is configured from release %s", node, release.short)
    return Ansible(context.settings, release)


def open_release(context: Context, digest: str) -> Release:
    """The release, checked; from S3 when its directory is gone."""
    return archive.find_release(context.settings, digest, context.s3())

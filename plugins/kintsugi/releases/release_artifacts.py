"""The jars of releases: in the cache before the first node is changed, and removed when no release needs them.

1. Before a roll-out opens, `provide_artifacts` fetches what is missing of every release that a node may be configured
   from meanwhile: the new one, the known-good one that it may be rolled back to, and those that the nodes run, which a
   recovery takes. All jars are verified by their release's lock files. So neither an update nor a roll-back nor a
   recovery downloads anything.
2. The new versions get their class archives, so that a node starts as fast as with the old ones.
3. When a release has become known-good, `remove_unneeded` removes the jars that only retired releases need.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.core.settings import Settings
from kintsugi.db.store import Deployment, ReleaseRecord
from kintsugi.infra import artifact_retention, artifacts, class_data_sharing
from kintsugi.operations.context import Context
from kintsugi.releases import archive, assignment
from kintsugi.releases.archive import Release

PRODUCTS = ("cassandra", "kafka", "spark")  # what nodes run; S3Proxy belongs to the control plane
KEPT = 3
"""So many known-good releases keep their jars, the newest ones. For an older one they are fetched again."""

_ARCHIVED = ("cassandra", "kafka")  # Spark's jars are those of the Python environment
_COORDINATES = re.compile(r"<artifactId>([^<]+)</artifactId><version>([^<]+)</version></dependency>")

log = logging.getLogger(__name__)


def settings_of(settings: Settings, release: Release) -> Settings:
    """Return the settings under which ``jars`` and lock files are those of the release, not of the checkout."""
    return replace(settings, repository=release.directory)


def provide_artifacts(context: Context, release: Release) -> list[str]:
    """Fetch the jars that a roll-out of ``release``, its roll-back and a recovery meanwhile need, where they lack.

    Returns the names of the fetched sets. Raises GuardRefused with the reason if they can't be had.
    """
    fetched = fetch_artifacts(context, release)
    good = context.store.last_known_good()
    others = {record.digest for record in (*context.store.node_releases().values(), *filter(None, [good]))}
    for digest in sorted(others - {release.digest}):
        other = assignment.open_release(context, digest)
        if unlocked := _unlocked(context.settings, other):
            # A release with new jars is the only way out of this, so it is not refused.
            log.warning("no node can be configured from %s: its jars of %s are gone", other.short, unlocked)
        else:
            fetched += fetch_artifacts(context, other)
    _make_class_archives(context, release)
    return fetched


def fetch_artifacts(context: Context, release: Release) -> list[str]:
    """Fetch what is missing of the release's jars, and return its names; raises GuardRefused if it can't be had."""
    if unlocked := _unlocked(context.settings, release):
        raise GuardRefused(
            f"release {release.short} is from before the lock files, and its jars of {unlocked} are not in the cache "
            f"at {context.settings.artifacts}; check out that version, run `make setup`, then roll it out"
        )
    settings = settings_of(context.settings, release)
    missing = artifacts.missing(settings, _products(settings))
    if missing and settings.fleet.environment == "docker":
        raise GuardRefused(
            f"no node was changed: in containers the nodes take their jars from the image, and it has not those of "
            f"{', '.join(missing)} of release {release.short}; build the image of that version with `make docker-up`"
        )
    try:
        return artifacts.ensure(settings, among=_products(settings))
    except KintsugiError as error:
        raise GuardRefused(
            f"no node was changed, because the jars of release {release.short} can't be had: {error}"
        ) from error


def _products(settings: Settings) -> list[str]:
    return [name for name in artifacts.names(settings) if name in PRODUCTS]


def _unlocked(settings: Settings, release: Release) -> str:
    """Return which jars of the release are missing and can't be fetched, because it has no lock file for them."""
    of_release = settings_of(settings, release)
    missing = artifacts.missing(of_release, _products(of_release))
    return ", ".join(name for name in missing if not of_release.jar_lock(name).exists())


def _make_class_archives(context: Context, release: Release) -> None:
    """Make the class archives of the release's jars. Without them a node serves all the same, only later."""
    try:
        made = class_data_sharing.make_archives(settings_of(context.settings, release), _ARCHIVED)
    except (KintsugiError, OSError) as error:
        log.warning("release %s starts without a class archive: %s", release.short, error)
    else:
        for path in made:
            log.info("made %s", path)


def describe_versions(old: Release, new: Release) -> str:
    """Return which versions change from one release to the other, as ``kafka_2.13 4.3.1 → 4.4.0``; empty if none."""
    before, after = product_versions(old), product_versions(new)
    return ", ".join(
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def product_versions(release: Release) -> dict[str, str]:
    """Return version by name (``kafka_2.13``) of what the poms of the nodes' products name."""
    poms = (release.directory / "artifacts" / product / "pom.xml" for product in PRODUCTS)
    return {
        name: version
        for pom in poms
        if pom.exists()
        for name, version in _COORDINATES.findall(pom.read_text())
    }


def needed_releases(
    releases: Iterable[ReleaseRecord], nodes: Mapping[str, ReleaseRecord], running: Iterable[Deployment]
) -> set[str]:
    """Return the digests of the releases whose jars stay. Pure.

    Those are what nodes run, what a running deployment rolls out or may return to, and the KEPT newest known-good ones.
    """
    good = sorted(
        (record for record in releases if record.known_good),
        key=lambda record: record.known_good_at or record.built_at,
        reverse=True,
    )
    digests = {record.digest for record in (*good[:KEPT], *nodes.values())}
    for deployment in running:
        digests |= {deployment.digest, *filter(None, [deployment.back_to])}
    return digests


def remove_unneeded(context: Context) -> list[str]:
    """Remove the jars in the cache that only retired releases need; returns the names of their sets.

    Sets that a checkout, or another installation on this machine, needs stay. Raises OSError.
    """
    store = context.store
    running = [one for one in store.read_deployments() if one.state == "running"]
    needed = needed_releases(store.read_releases(1000), store.node_releases(), running)
    retired = [one for one in archive.releases_on_disk(context.settings) if one.digest not in needed]
    return artifact_retention.remove_unneeded(
        context.settings, [release.directory for release in retired], PRODUCTS
    )

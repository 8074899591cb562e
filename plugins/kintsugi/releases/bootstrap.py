"""The release of a fleet that ``make up`` starts: the first is built from the checkout, later starts keep theirs.

So a restart of the machine starts the same releases again and never deploys a new one. A changed checkout gets to the
nodes only by ``deploy_release``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kintsugi.core import cassandra_racks
from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import REPOSITORY, load_fleet
from kintsugi.infra.ansible import Ansible
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.releases import archive, assignment, drift, release_artifacts, steady_state

CONVERGE_S = 300.0
STEADY_S = 120.0


def start_fleet(context: Context) -> str:
    """Configure and start every node from its recorded release; returns what was done.

    If none is recorded, this checkout becomes the first release. Raises StepFailed with Ansible's error, and
    GuardRefused if the jars of a release can't be had.
    """
    if not context.store.node_releases():
        release = archive.publish_release(context)
        context.store.set_node_releases(context.fleet.nodes, release.digest)
    groups = drift.nodes_by_release(context, {})
    _record_zones(context, groups)
    desired = stream_driver.driver_variables(context)
    releases = {digest: assignment.open_release(context, digest) if digest else None for digest in groups}
    for release in filter(None, releases.values()):
        # The checkout's jars are there, but nodes may run other versions: after a restore on a new machine, for one.
        release_artifacts.fetch_artifacts(context, release)
    for digest, nodes in groups.items():
        ansible = Ansible(context.settings, releases[digest])
        # Only a run over the whole fleet records that its clusters exist.
        limit = ",".join(nodes) if len(groups) > 1 else None
        ansible.run("site.yml", limit=limit, extra_vars=desired, timeout_s=CONVERGE_S)
    return f"release {' and '.join((digest or 'checkout')[:12] for digest in groups)}"


def _record_zones(context: Context, groups: Mapping[str | None, Collection[str]]) -> None:
    """Record the zones that Cassandra's cluster is formed with, unless it exists: those of the nodes' releases.

    A release from before the zones configures none, whatever the fleet file in effect says.
    """
    if cassandra_racks.formed_zones(context.settings) is not None:
        return
    zones: dict[str, str] = {}
    for digest, nodes in groups.items():
        release = assignment.open_release(context, digest) if digest else None
        declared = cassandra_racks.declared_zones(
            load_fleet(release.fleet_file) if release else context.fleet
        )
        zones |= {name: zone for name, zone in declared.items() if name in nodes}
    cassandra_racks.record_zones(context.settings, zones)


def mark_first_known_good(context: Context) -> str:
    """Mark the release of the whole fleet as known-good, if there is none yet and the steady state holds."""
    records = context.store.node_releases()
    digests = {record.digest for record in records.values()}
    good = context.store.last_known_good()
    if good is None and len(digests) == 1 and records.keys() == context.fleet.nodes.keys():
        try:
            steady_state.await_steady(lambda: steady_state.observe_fleet(context), STEADY_S)
        except GuardRefused as refusal:
            return f"the release isn't known-good yet: {refusal}"
        context.store.mark_known_good(digests.pop())
        return "the first release is known-good: every node serves"
    if archive.digest_of(context.settings) not in digests:
        return f"the checkout {REPOSITORY} differs from what the nodes run; run deploy_release to roll it out"
    return "the nodes run the release of this checkout"

"""Checks before a roll-out changes a node: the release fits the fleet, its files render, the pipeline works."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kintsugi.core.cassandra_racks import zone_conflict
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Fleet, load_fleet
from kintsugi.core.membership import read_membership, write_membership
from kintsugi.infra.ansible import Ansible, Checked
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.releases import steady_state
from kintsugi.releases.archive import Release

CHECK_S = 300.0

log = logging.getLogger(__name__)


def check_fit(context: Context, release: Release) -> None:
    """Raise GuardRefused if the release declares other nodes or zones than the fleet has."""
    declared = load_fleet(release.fleet_file)
    _check_nodes(context.fleet, declared)
    if conflict := zone_conflict(context.settings, declared):
        raise GuardRefused(f"release {release.short} can't be rolled out: {conflict}")


def check_way_back(context: Context, back_to: Release) -> None:
    """Raise GuardRefused if a roll-back to the known-good release could not configure every node."""
    try:
        _check_nodes(context.fleet, load_fleet(back_to.fleet_file))
    except GuardRefused as refusal:
        raise GuardRefused(
            f"release {back_to.short} is the last known-good one, and a roll-back to it would not work: {refusal}. "
            "Finish `make scale-fleet` first"
        ) from refusal


def _check_nodes(current: Fleet, declared: Fleet) -> None:
    def identities(fleet: Fleet) -> set[tuple[str, str, str, int]]:
        return {(node.name, node.role.value, node.address, node.ssh_port) for node in fleet}

    odd = sorted({name for name, *_ in identities(current) ^ identities(declared)})
    if odd:
        raise GuardRefused(
            f"the fleet file of the release and the current fleet differ in {', '.join(odd)}; "
            "a roll-out does not create, move or remove nodes. `make scale-fleet` does"
        )


def record_zones(context: Context, release: Release) -> None:
    """Record the zones of a release that every node runs: from then on they are in force."""
    control = context.settings.control
    if (membership := read_membership(control)) is not None:
        zones = {node.name: node.zone for node in load_fleet(release.fleet_file)}
        write_membership(control, membership.with_zones(zones))


def check_rendering(context: Context, release: Release, nodes: Sequence[str]) -> Checked:
    """Render and compare; a node that fails is checked a second time.

    A lost connection on a busy machine fails a task just as an error in the release does. Only the error fails twice.
    """
    ansible, desired = Ansible(context.settings, release), stream_driver.driver_variables(context)
    first = ansible.check(nodes, extra_vars=desired, timeout_s=CHECK_S)
    again = sorted(first.failed.keys() | first.unreachable.keys())
    if not again:
        return first
    log.warning("checking %s again: %s", ", ".join(again), {**first.failed, **first.unreachable})
    second = ansible.check(again, extra_vars=desired, timeout_s=CHECK_S)
    return Checked({**first.differs, **second.differs}, second.failed, second.unreachable)


def check_pipeline(context: Context) -> str:
    """Send a synthetic trade before the roll-out: in a pipeline that is broken already, every release would fail."""
    try:
        return steady_state.verify_synthetic_trade(context)
    except StepFailed as error:
        raise GuardRefused(
            f"the pipeline does not work before the roll-out, so nothing is rolled out: {error}"
        ) from error

"""Make and destroy single nodes by Terraform, and configure new ones by Ansible.

New nodes are configured from the release of the members with the declared fleet file in it, and nothing else changed.
So a change of the fleet deploys no code, and what is configured later (a recovery, a roll-out, a check for drift) finds
the new fleet.

Each function may be killed at any moment and run again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from kintsugi.core import cassandra_racks
from kintsugi.core.errors import GuardRefused, PlanRejected, StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.infra.ansible import Ansible
from kintsugi.infra.terraform import StalePlan
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.recovery.plan_policy import check_single_action, node_addresses
from kintsugi.releases import archive, assignment
from kintsugi.releases.archive import Release
from kintsugi.scaling import clusters
from kintsugi.scaling.plan import ScalingPlan
from kintsugi.scaling.state import Check

PLAN_TRIES = 3
CONFIGURE_S = 420.0
WRITE_S, WRITE_TRIES = 1200.0, 3  # the files of all nodes
BOOTSTRAP_S = 6 * 3600.0
"""A new Cassandra node streams its ranges before it serves."""
_JOINS = "cassandra_joins"
"""What a release must know to add a Cassandra node: a variable of its role."""

log = logging.getLogger(__name__)


def release_of_declared(context: Context, plan: ScalingPlan) -> Release:
    """Return the members' release with the declared fleet file; built, recorded and stored if it is new.

    Raises GuardRefused if the members run different releases, or one that can't add such a node.
    """
    records = context.store.node_releases()
    digests = {records[name].digest for name in context.fleet.nodes if name in records}
    if not digests:
        raise GuardRefused("No release is recorded for the fleet: run `make up` first.")
    if bad := sorted(
        digest[:12] for digest in digests if context.store.release_record(digest).bad_at is not None
    ):
        raise GuardRefused(
            f"The fleet runs the release {', '.join(bad)}, which is marked bad: roll out another one."
        )
    derived = {
        release.digest: release
        for release in (
            archive.build_release(
                context.settings,
                assignment.open_release(context, digest).directory,
                context.settings.fleet_file,
            )
            for digest in digests
        )
    }
    if len(derived) > 1:
        raise GuardRefused(
            "The nodes run different releases. Finish the roll-out first: trigger deploy_release with one of them."
        )
    (release,) = derived.values()
    _require_ability(release, plan)
    (base,) = sorted(digests)[:1]
    context.store.add_release(release.digest, f"release {base[:12]} with a changed fleet file")
    archive.store_in_s3(context, release)
    return release


def _require_ability(release: Release, plan: ScalingPlan) -> None:
    role = release.directory / "ansible" / "roles" / "cassandra" / "vars" / "main.yml"
    if plan.added(Role.CASSANDRA) and _JOINS not in role.read_text():
        raise GuardRefused(
            "The fleet runs a release that can't add a Cassandra node. Roll out this checkout first (deploy_release)."
        )


def create_node(context: Context, node: Node, check: Check) -> None:
    """Let Terraform make the node and its volume; what is there stays. Raises PlanRejected, StepFailed."""
    addresses = node_addresses(context.fleet.environment, node.name, with_volume=True)
    check()
    context.platform().make_room([node.name], context.terraform().known, living=True)
    _apply(context, addresses, ["create"], [], check)
    context.platform().power_on(node.name)


def destroy_node(context: Context, node: Node, check: Check) -> None:
    """Let Terraform destroy node and volume; the data goes to the quarantine. Raises PlanRejected, StepFailed."""
    addresses = node_addresses(context.fleet.environment, node.name, with_volume=True)
    _apply(context, addresses, ["delete"], [node.name], check)


def _apply(
    context: Context, addresses: Sequence[str], action: list[str], without: Sequence[str], check: Check
) -> None:
    terraform = context.terraform()
    for _ in range(PLAN_TRIES):
        saved = terraform.plan(targets=addresses, without=without)
        if not check_single_action(saved.document, addresses, action):
            return
        check()
        try:
            terraform.apply(saved)
        except StalePlan:
            continue
        return
    raise PlanRejected(
        f"the plan went stale {PLAN_TRIES} times because other runs change Terraform's state; run it again"
    )


def configure_node(context: Context, node: Node, release: Release, check: Check) -> None:
    """Configure and start the new node; returns when it listens.

    Raises StepFailed with Ansible's error, or as soon as a Cassandra node says that its join has failed.
    """
    if node.role is Role.CASSANDRA and node.zone is not None:
        zones = cassandra_racks.formed_zones(context.settings) or {}
        cassandra_racks.record_zones(context.settings, {**zones, node.name: node.zone})
    context.store.set_node_releases([node.name], release.digest)
    variables: dict[str, Any] = {**stream_driver.driver_variables(context)}
    timeout_s, give_up = CONFIGURE_S, None
    if node.role is Role.CASSANDRA:
        clusters.stop_failed_join(context, node, check)  # of an earlier run: Ansible leaves what runs alone
        give_up = clusters.failed_join_watch(context, node)
        variables |= {_JOINS: True, "cassandra_start_timeout": int(BOOTSTRAP_S)}
        timeout_s = BOOTSTRAP_S + CONFIGURE_S
    Ansible(context.settings, release).run(
        "site.yml", limit=node.name, extra_vars=variables, timeout_s=timeout_s, give_up=give_up
    )


def write_files(context: Context, nodes: Collection[str], release: Release) -> None:
    """Write the files of the members from the release, without a restart, and record that they run it.

    What differs is only read at a start: who to ask for the cluster. Raises StepFailed with Ansible's error.
    """
    for tries_left in reversed(range(WRITE_TRIES)):
        try:
            Ansible(context.settings, release).run(
                "site.yml",
                limit=",".join(nodes),
                extra_vars=stream_driver.driver_variables(context),
                timeout_s=WRITE_S,
            )
            break
        except StepFailed as failure:  # a busy node may not answer SSH in time
            if not tries_left:
                raise
            log.warning("it is tried again: %s", failure)
    context.store.set_node_releases(nodes, release.digest)


def forget_node(context: Context, node: Node) -> None:
    """Remove the node from the records of releases and of zones."""
    context.store.forget_node_release(node.name)
    zones = cassandra_racks.formed_zones(context.settings)
    if zones and node.name in zones:
        cassandra_racks.record_zones(
            context.settings, {name: zone for name, zone in zones.items() if name != node.name}
        )

"""Drift: files on a node's disk that differ from its release.

Ansible in check mode renders every file from the node's own release and compares; it changes nothing. Differences are
recorded (``kintsugi release drift``) until a later check finds them gone. A node that is in recovery or in a roll-out,
or that doesn't answer, is skipped and named.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kintsugi.core.errors import LeaseHeld, StepFailed
from kintsugi.core.fleet import REPOSITORY
from kintsugi.infra.ansible import Ansible
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.releases import assignment

CHECK_S = 300.0
LEASE_S = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The result of a drift check. ``differs``: paths by node; no paths for a node that matches its release.

    ``left_out``: why a node was not compared. ``put_right``: paths by node that were written again.
    """

    differs: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]
    put_right: Mapping[str, tuple[str, ...]]

    @property
    def remaining(self) -> dict[str, tuple[str, ...]]:
        """What still differs."""
        return {node: paths for node, paths in self.differs.items() if paths and node not in self.put_right}

    def __str__(self) -> str:
        lines = [f"{node}: {', '.join(paths)}" for node, paths in sorted(self.remaining.items())]
        lines += [f"{node}: corrected: {', '.join(paths)}" for node, paths in sorted(self.put_right.items())]
        lines += [f"{node}: not compared: {reason}" for node, reason in sorted(self.left_out.items())]
        same = [node for node, paths in self.differs.items() if not paths]
        return "; ".join([*lines, f"{len(same)} nodes match their release"])


def detect_drift(context: Context, *, holder: str, put_right: bool = False) -> DriftReport:
    """Compare every node with its release and record the differences; correct them if ``put_right`` is set.

    A correction writes files and never restarts a service, because a changed file has an effect only at the next
    start. If the service has already started with it, ``deploy_release`` with the same digest restarts it with probes.
    ``holder`` holds the node's lease meanwhile. Raises StepFailed if no node could be compared.
    """
    differs: dict[str, tuple[str, ...]] = {}
    left_out = {node: reason for node in context.fleet.nodes if (reason := _lease_reason(context, node))}
    for digest, nodes in nodes_by_release(context, left_out).items():
        checked = _ansible_of(context, digest).check(
            nodes, extra_vars=stream_driver.driver_variables(context), timeout_s=CHECK_S
        )
        left_out |= {**checked.failed, **checked.unreachable}
        for node, paths in checked.differs.items():
            differs[node] = paths
            fresh = context.store.record_drift(node, digest or "", paths)
            for path in fresh:
                log.warning("%s: %s differs from release %s", node, path, (digest or "(none)")[:12])
    if not differs:
        raise StepFailed(f"no node could be compared: {'; '.join(left_out.values())}")
    report = DriftReport(differs, left_out, {})
    if put_right:
        written = {
            node: paths
            for node, paths in report.remaining.items()
            if not _is_in_maintenance(context, node) and _correct_files(context, node, holder)
        }
        report = DriftReport(differs, left_out, written)
    return report


def nodes_by_release(context: Context, but: Mapping[str, str]) -> dict[str | None, list[str]]:
    """Return the node names by the release to compare them with; None: this checkout."""
    groups: dict[str | None, list[str]] = {}
    for node in context.fleet.nodes:
        if node not in but:
            groups.setdefault(assignment.digest_to_configure_from(context, node), []).append(node)
    return groups


def _lease_reason(context: Context, node: str) -> str | None:
    lease = context.store.read_lease(node)
    return None if lease is None else f"{lease.holder} holds its lease"


def _is_in_maintenance(context: Context, node: str) -> bool:
    """Whether a maintenance flag covers the node; if so, it is logged."""
    flags = context.store.read_maintenance(node)
    for flag in flags:
        log.warning("%s is not corrected: %s", node, flag)
    return bool(flags)


def _correct_files(context: Context, node: str, holder: str) -> bool:
    """Write the node's files and record it; False if another run holds its lease."""
    try:
        digest = write_files(context, node, holder)
    except LeaseHeld as held:
        log.warning("%s", held)
        return False
    context.store.record_drift(node, digest or "", [], put_right=True)
    return True


def write_files(context: Context, node: str, holder: str) -> str | None:
    """Write the node's files again from its release, without a restart; returns the digest, None without a release.

    Raises LeaseHeld if another run than ``holder`` changes the node.
    """
    with context.store.hold_lease(node, holder, LEASE_S) as lease:
        digest = assignment.digest_to_configure_from(context, node)
        context.store.check_lease(node, lease.token)
        _ansible_of(context, digest).run(
            "site.yml", limit=node, extra_vars=stream_driver.driver_variables(context), timeout_s=CHECK_S
        )
    return digest


def _ansible_of(context: Context, digest: str | None) -> Any:
    if digest is None:
        log.info("no release is recorded, so nodes are compared with the checkout at %s", REPOSITORY)
        return Ansible(context.settings)
    return Ansible(context.settings, assignment.open_release(context, digest))

"""Drift: files on a server's disk that differ from its release.

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
from kintsugi.operations.context import Runtime
from kintsugi.releases import assignment

CHECK_S = 300.0
LEASE_S = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
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


def look(runtime: Runtime, *, holder: str, put_right: bool = False) -> Report:
    """Compare every node with its release and record the differences; correct them if ``put_right`` is set.

    A correction writes files and never restarts a service, because a changed file has an effect only at the next
    start. If the service has already started with it, ``deploy_release`` with the same digest restarts it with probes.
    ``holder`` holds the node's lease meanwhile. Raises StepFailed if no node could be compared.
    """
    differs: dict[str, tuple[str, ...]] = {}
    left_out = {node: reason for node in runtime.fleet.nodes if (reason := _busy(runtime, node))}
    for digest, nodes in by_release(runtime, left_out).items():
        checked = _ansible(runtime, digest).check(
            nodes, extra_vars=stream_driver.variables(runtime), timeout_s=CHECK_S
        )
        left_out |= {**checked.failed, **checked.unreachable}
        for node, paths in checked.differs.items():
            differs[node] = paths
            fresh = runtime.store.record_drift(node, digest or "", paths)
            for path in fresh:
                log.warning("%s: %s differs from release %s", node, path, (digest or "(none)")[:12])
    if not differs:
        raise StepFailed(f"no node could be compared: {'; '.join(left_out.values())}")
    report = Report(differs, left_out, {})
    if put_right:
        written = {
            node: paths
            for node, paths in report.remaining.items()
            if not _forbidden(runtime, node) and _write(runtime, node, holder)
        }
        report = Report(differs, left_out, written)
    return report


def by_release(runtime: Runtime, but: Mapping[str, str]) -> dict[str | None, list[str]]:
    """Return the node names by the release to compare them with; None: this checkout."""
    groups: dict[str | None, list[str]] = {}
    for node in runtime.fleet.nodes:
        if node not in but:
            groups.setdefault(assignment.to_configure_from(runtime.store, node), []).append(node)
    return groups


def _busy(runtime: Runtime, node: str) -> str | None:
    lease = runtime.store.lease(node)
    return None if lease is None else f"{lease.holder} holds its lease"


def _forbidden(runtime: Runtime, node: str) -> bool:
    """Whether a maintenance flag covers the node; if so, it is logged."""
    flags = runtime.store.maintenance(node)
    for flag in flags:
        log.warning("%s is not corrected: %s", node, flag)
    return bool(flags)


def _write(runtime: Runtime, node: str, holder: str) -> bool:
    """Write the node's files again from its release, without a restart; False if another run holds its lease."""
    try:
        lease = runtime.store.acquire_lease(node, holder, LEASE_S, fresh_token=True)
    except LeaseHeld as held:
        log.warning("%s", held)
        return False
    try:
        digest = assignment.to_configure_from(runtime.store, node)
        runtime.store.check(node, lease.token)
        _ansible(runtime, digest).run(
            "site.yml", limit=node, extra_vars=stream_driver.variables(runtime), timeout_s=CHECK_S
        )
        runtime.store.record_drift(node, digest or "", [], put_right=True)
    finally:
        runtime.store.release(node, lease.token)
    return True


def _ansible(runtime: Runtime, digest: str | None) -> Any:
    if digest is None:
        log.info("no release is recorded, so nodes are compared with the checkout at %s", REPOSITORY)
        return Ansible(runtime.settings)
    return Ansible(runtime.settings, assignment.open_release(runtime, digest))

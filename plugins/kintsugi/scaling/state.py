"""What a run that adds or removes nodes reads and writes: the plan, the record of members, its lease and its flags."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from kintsugi.core.dag_ids import is_scaling
from kintsugi.core.errors import GuardRefused, LeaseHeld
from kintsugi.core.membership import Membership, read_membership, write_membership
from kintsugi.operations.context import LEASE_S, Context, lease_renewal
from kintsugi.releases.rollout_claim import ROLL_OUT
from kintsugi.scaling.plan import ScalingPlan, plan_scaling
from kintsugi.scaling.progress import append_entry

FLAG = timedelta(hours=24)  # of a maintenance flag, which usually ends with the lease of its run
Check = Callable[[], None]
"""Called right before each act that can't be undone; raises StaleTokenError unless the step still holds the fleet."""

log = logging.getLogger(__name__)


def required_membership(context: Context) -> Membership:
    """Return the record of members. Raises GuardRefused if there is none."""
    membership = read_membership(context.settings.control)
    if membership is None:
        raise GuardRefused(
            "This installation has no record of its nodes yet. Revert the edit of the fleet file, run `make up`, "
            "which writes the record, and edit the file again."
        )
    return membership


def read_plan(context: Context) -> ScalingPlan:
    """Return what is left to do, from the fleet file and the record as they are now."""
    return plan_scaling(context.settings.declared_fleet, required_membership(context))


def change_membership(context: Context, change: Callable[[Membership], Membership]) -> None:
    """Change the record; every process reads it at its next look at the fleet. Raises GuardRefused if there is none."""
    write_membership(context.settings.control, change(required_membership(context)))


def fresh(context: Context) -> Context:
    """Return the context with the fleet that is in force now."""
    return replace(context, fleet=context.settings.fleet)


@contextmanager
def hold_fleet(context: Context, holder: str) -> Iterator[Check]:
    """Hold the lease under which the whole fleet is changed during the block; it lasts to the next step.

    Yields the check of its fencing token. Raises GuardRefused while another run has the lease.
    """
    try:
        lease = context.store.acquire_lease(ROLL_OUT, holder, LEASE_S, fresh_token=True)
    except LeaseHeld as held:
        raise GuardRefused(f"Another run changes the fleet: {held}.") from held
    with lease_renewal(context.store, lease):
        yield partial(context.store.check_lease, ROLL_OUT, lease.token)


@contextmanager
def hold_nodes(context: Context, holder: str, names: Iterable[str]) -> Iterator[None]:
    """Hold the lease of each node during the block, so that no other run changes it meanwhile.

    Raises LeaseHeld while another run has one of them.
    """
    with ExitStack() as leases:
        for name in names:
            lease = leases.enter_context(context.store.hold_lease(name, holder, LEASE_S))
            leases.enter_context(lease_renewal(context.store, lease))
        yield


def note(context: Context, holder: str, message: str, *nodes: str) -> None:
    """Add a sentence to the progress and to the log; ``nodes``: whose maintenance flag says it, and lasts longer."""
    log.info("%s", message)
    append_entry(context.store, holder, message)
    for name in nodes:
        context.store.set_maintenance(name, reason=message, user=holder, until=datetime.now(UTC) + FLAG)


def clear_flags(context: Context, *names: str) -> None:
    """End the maintenance flags that this run or an earlier one has set, on these nodes or on all."""
    for name in names or context.settings.known_fleet.nodes:
        for flag in context.store.read_maintenance(name):
            if is_scaling(flag.user):
                context.store.clear_maintenance(name, user=flag.user)

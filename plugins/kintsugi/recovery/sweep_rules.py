"""Find abandoned incidents, and approval questions that are no longer needed. Pure.

Usually the run that works on an incident closes it, or the node's watch continues it. Neither happens if the run was
killed, or if the node came up by itself after its recovery had failed. Then a sweep starts `recover_node`. It verifies
a node that serves and closes the incident; a node that does not serve is recovered further.

1. An incident is abandoned if it is open, all its runs have ended, nobody else holds its node's lease, and nothing
   was written into its journal for QUIET. A live watch continues it well within that time.
2. The nth sweep of an incident waits another 2^(n-1) minutes, at most LONGEST, because a sweep that failed would
   probably fail again at once.
3. An incident that still stays open causes a page (`kintsugi.notify.paging_rules`).
4. A node that has left the fleet can't be recovered. Its abandoned incident is closed as refused, without a sweep.

A question to a person is no longer needed if

1. its incident is closed, or
2. no person requested the recovery, and the node has answered its protocol STEADY times in a row, or
3. only a maintenance flag refused the recovery, and the maintenance has ended.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from kintsugi.core.dag_ids import SWEEP_RUN
from kintsugi.core.incident import Action, Incident
from kintsugi.recovery.assessment import ConfirmedFinding, latest_entry
from kintsugi.recovery.diagnosis import FailureMode
from kintsugi.recovery.guard_model import Guard

QUIET = timedelta(seconds=45)
LONGEST = timedelta(minutes=30)
STEADY = 3
ASKED_FOR = timedelta(hours=1)  # a question lasts 30 minutes, see `subgraph.APPROVAL_WAIT`
RUN_PREFIX = SWEEP_RUN


def is_abandoned(
    incident: Incident, *, ended: Collection[str], lease_holder: str | None, sweeps: int, now: datetime
) -> bool:
    """Whether a sweep of the incident is due at ``now`` (UTC).

    ``ended``: which of its runs (``<dag>/<run>``) have ended. ``lease_holder``: who holds its node's lease, None if
    nobody does. ``sweeps``: how many sweeps of it have ended.
    """
    if incident.closed_at is not None or not set(incident.runs()) <= set(ended):
        return False
    if lease_holder is not None and lease_holder not in ended:
        return False
    pause = QUIET if sweeps == 0 else min(timedelta(minutes=2 ** (min(sweeps, 10) - 1)), LONGEST)
    return now - incident.last_word >= pause


def sweep_run_id(incident: Incident, sweeps: int) -> str:
    """Return the id of the next run of `recover_node`. It stays the same until that run exists: only one starts."""
    return f"{RUN_PREFIX}{incident.id}__{sweeps + 1}"


def may_be_asked_about(incident: Incident, now: datetime) -> bool:
    """Whether a question about the incident may still be open: a guard refused, and it closed only recently or not."""
    refused = any("refused" in entry.data for entry in incident.entries)
    return refused and (incident.closed_at is None or now - incident.closed_at < ASKED_FOR)


def why_withdrawn(incident: Incident, run: str, *, answers_in_a_row: int, maintenance: bool) -> str | None:
    """Return why the question that ``run`` asks is no longer needed; None if it still is.

    ``answers_in_a_row``: how often the node has answered its protocol since it last didn't. ``maintenance``: whether a
    maintenance flag covers the node.
    """
    if incident.closed_at is not None:
        return f"its incident was closed as {incident.outcome}"
    try:
        confirmed = ConfirmedFinding.of(incident, run)
        gates = latest_entry(incident, "guard", "refused", run).data["gates"]
    except KeyError:
        return None
    by_hand = confirmed.requested is not Action.AUTO
    sick_though_it_answers = confirmed.verdict is FailureMode.CLOCK_WRONG
    if answers_in_a_row >= STEADY and not by_hand and not sick_though_it_answers:
        return f"{incident.node} answers again"
    if list(gates) == [Guard.MAINTENANCE] and not maintenance:
        return f"the maintenance of {incident.node} has ended"
    return None

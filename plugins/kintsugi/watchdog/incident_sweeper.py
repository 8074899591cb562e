"""Takes over incidents whose run is gone, and withdraws questions whose reason is gone.

It is a loop of the watchdog. Each pass reads the state from the store and from Airflow, so it may be killed at any
point. `kintsugi.recovery.sweep_rules` makes the decisions.

An error about one incident is logged and holds up no other one. An incident whose node has left the fleet can't be
recovered any more, so the sweep closes it as refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kintsugi.core.dag_ids import RECOVERY_DAG
from kintsugi.core.errors import FleetError, GuardRefused, StaleTokenError, StepFailed
from kintsugi.core.incident import Incident, Outcome
from kintsugi.db.store import Store
from kintsugi.infra.airflow_client import FINISHED, Airflow, AirflowRefused
from kintsugi.operations.approval_answers import LOOK_AGAIN
from kintsugi.operations.context import LEASE_S
from kintsugi.recovery.sweep_rules import (
    ASKED_FOR,
    RUN_PREFIX,
    is_abandoned,
    may_be_asked_about,
    sweep_run_id,
    why_withdrawn,
)

QUESTION = "recovery.ask_a_human"
RECENT_RUNS = 100
HOLDER = "watchdog/sweep"  # of the lease, while the sweep closes an incident
# Afterwards the rest waits for the next pass: an Airflow that answers late must not make the loop count as hung.
SWEEPS_S = 60.0

log = logging.getLogger(__name__)


@dataclass
class IncidentSweeper:
    """``answers``: whether the node of that name answers its protocol now. ``members``: the nodes in force, by name.

    ``answers`` raises FleetError for a node that is not in force.
    """

    store: Store
    airflow: Airflow
    answers: Callable[[str], bool]
    members: Callable[[], Collection[str]]
    _in_a_row: dict[str, int] = field(default_factory=dict)
    _errors: dict[str, str] = field(default_factory=dict)  # of the last sweep, by incident

    def sweep(self) -> None:
        """One pass. Raises StoreUnavailable, and StepFailed when Airflow does not answer; the next pass tries again."""
        try:
            self._sweep_incidents(self.store.read_incidents(None, open_only=True))
        finally:
            self._withdraw_questions()

    # --- incidents ------------------------------------------------------------------------------------------

    def _sweep_incidents(self, opened: list[Incident]) -> None:
        now = datetime.now(UTC)
        quiet = [
            one for one in opened if is_abandoned(one, ended=one.runs(), lease_holder=None, sweeps=0, now=now)
        ]
        if not quiet:
            return
        sweeps = [
            run
            for run in self.airflow.runs(RECOVERY_DAG, RECENT_RUNS)
            if run["dag_run_id"].startswith(RUN_PREFIX)
        ]
        members, until = self.members(), time.monotonic() + SWEEPS_S
        # What failed in the last pass comes last, so that it can't use up the time of every pass.
        for incident in sorted(quiet, key=lambda one: one.id in self._errors):
            if time.monotonic() < until:
                self._try_to_sweep(incident, sweeps, now, is_member=incident.node in members)
        self._errors = {one.id: self._errors[one.id] for one in quiet if one.id in self._errors}

    def _try_to_sweep(
        self, incident: Incident, sweeps: list[dict[str, Any]], now: datetime, *, is_member: bool
    ) -> None:
        """Sweep the incident; an error is logged when it changes. Raises StoreUnavailable."""
        try:
            self._sweep_incident(incident, sweeps, now, is_member=is_member)
        except (StepFailed, GuardRefused, StaleTokenError) as error:
            if self._errors.get(incident.id) != str(error):
                log.warning("incident %s is not swept, the next pass tries again: %s", incident.id, error)
            self._errors[incident.id] = str(error)
        else:
            self._errors.pop(incident.id, None)

    def _sweep_incident(
        self, incident: Incident, sweeps: list[dict[str, Any]], now: datetime, *, is_member: bool
    ) -> None:
        own = [run for run in sweeps if run["dag_run_id"].startswith(f"{RUN_PREFIX}{incident.id}__")]
        if any(run["state"] not in FINISHED for run in own):
            return
        ended = {run for run in incident.runs() if self._has_ended(run)}
        lease = self.store.read_lease(incident.node)
        holder = lease.holder if lease else None
        begun = len(own) if is_member else 0  # no sweep helps a node that has left, so none is waited for
        if not is_abandoned(incident, ended=ended, lease_holder=holder, sweeps=begun, now=now):
            return
        if holder is not None:
            self.store.give_back(
                incident.node, holder
            )  # of a run that was killed; it would expire minutes later
        if not is_member:
            self._close_for_former_node(incident)
            return
        run_id = sweep_run_id(incident, len(own))
        log.warning("incident %s is open and no run works on it; %s takes it over", incident.id, run_id)
        self.airflow.trigger(
            RECOVERY_DAG, {"node": incident.node, "action": "auto", "dry_run": False}, run_id
        )

    def _close_for_former_node(self, incident: Incident) -> None:
        """Close the incident as refused; a pending data repair of its node ends too. Raises LeaseHeld."""
        reason = f"{incident.node} is no longer a node of the fleet, so it is not recovered"
        log.warning("incident %s is closed: %s", incident.id, reason)
        with self.store.hold_lease(incident.node, HOLDER, LEASE_S) as lease:
            data = {"outcome": Outcome.REFUSED.value}
            self.store.append_entry(incident.id, lease.token, "record", reason, data, key=HOLDER)
            self.store.close_incident(incident.id, lease.token, Outcome.REFUSED, reason)
            self.store.forget_pending([incident.node])

    def _has_ended(self, run: str) -> bool:
        """Whether the run has ended; a run that Airflow does not know counts as ended."""
        dag_id, _, run_id = run.partition("/")
        try:
            return self.airflow.run_state(dag_id, run_id) in FINISHED
        except AirflowRefused as refused:
            if refused.status in (404, 405, 422):  # there is no such run, or it is not the id of a run
                return True
            raise

    # --- questions ------------------------------------------------------------------------------------------

    def _withdraw_questions(self) -> None:
        now = datetime.now(UTC)
        current = self.store.read_current_incidents(now - ASKED_FOR)
        incidents = [one for one in current if may_be_asked_about(one, now)]
        asked = (
            [question for question in self.airflow.questions() if question["task_id"] == QUESTION]
            if incidents
            else []
        )
        looked_at: set[str] = set()
        for question in asked:
            run = f"{question['dag_id']}/{question['run_id']}"
            incident = next((one for one in incidents if run in one.runs()), None)
            if incident is None:
                continue
            if incident.node not in looked_at:
                looked_at.add(incident.node)
                well = self._is_responding(incident.node)
                self._in_a_row[incident.node] = self._in_a_row.get(incident.node, 0) + 1 if well else 0
            reason = why_withdrawn(
                incident,
                run,
                answers_in_a_row=self._in_a_row[incident.node],
                maintenance=bool(self.store.read_maintenance(incident.node)),
            )
            if reason is not None:
                self._withdraw_question(question, incident, reason)
        self._in_a_row = {node: count for node, count in self._in_a_row.items() if node in looked_at}

    def _is_responding(self, node: str) -> bool:
        try:
            return self.answers(node)
        except FleetError:  # it has left the fleet
            return False

    def _withdraw_question(self, question: dict[str, Any], incident: Incident, reason: str) -> None:
        log.warning("the question about %s is withdrawn: %s", incident.id, reason)
        try:
            self.airflow.answer(question, LOOK_AGAIN)
        except AirflowRefused as refused:  # a person has just answered it, or its run has ended
            log.warning("the question about %s is not withdrawn: %s", incident.id, refused)

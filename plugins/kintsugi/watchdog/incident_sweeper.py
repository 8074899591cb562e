"""Takes over incidents whose run is gone, and withdraws questions whose reason is gone.

It is a loop of the watchdog. Each pass reads the state from the store and from Airflow, so it may be killed at any
point. `kintsugi.recovery.sweep_rules` makes the decisions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kintsugi.core.incident import Incident
from kintsugi.db.store import Store
from kintsugi.infra.airflow_client import FINISHED, Airflow, AirflowRefused
from kintsugi.operations.approval_answers import LOOK_AGAIN
from kintsugi.recovery.sweep_rules import (
    RUN_PREFIX,
    is_abandoned,
    may_be_asked_about,
    sweep_run_id,
    why_withdrawn,
)

RECOVERY_DAG = "recover_node"
QUESTION = "recovery.ask_a_human"
OPEN_INCIDENTS = 50
RECENT_RUNS = 100

log = logging.getLogger(__name__)


@dataclass
class IncidentSweeper:
    """``answers``: whether the node of that name answers its protocol now."""

    store: Store
    airflow: Airflow
    answers: Callable[[str], bool]
    _in_a_row: dict[str, int] = field(default_factory=dict)

    def sweep(self) -> None:
        """One pass. Raises StoreUnavailable, and StepFailed when Airflow does not answer; the next pass tries again."""
        self._sweep_incidents(self.store.read_incidents(OPEN_INCIDENTS, open_only=True))
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
        for incident in quiet:
            self._sweep_incident(incident, sweeps, now)

    def _sweep_incident(self, incident: Incident, sweeps: list[dict[str, Any]], now: datetime) -> None:
        own = [run for run in sweeps if run["dag_run_id"].startswith(f"{RUN_PREFIX}{incident.id}__")]
        if any(run["state"] not in FINISHED for run in own):
            return
        ended = {run for run in incident.runs() if self._has_ended(run)}
        lease = self.store.read_lease(incident.node)
        holder = lease.holder if lease else None
        if not is_abandoned(incident, ended=ended, lease_holder=holder, sweeps=len(own), now=now):
            return
        if holder is not None:
            self.store.give_back(
                incident.node, holder
            )  # of a run that was killed; it would expire minutes later
        run_id = sweep_run_id(incident, len(own))
        log.warning("incident %s is open and no run works on it; %s takes it over", incident.id, run_id)
        self.airflow.trigger(
            RECOVERY_DAG, {"node": incident.node, "action": "auto", "dry_run": False}, run_id
        )

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
        incidents = [one for one in self.store.read_incidents(OPEN_INCIDENTS) if may_be_asked_about(one, now)]
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
                well = self.answers(incident.node)
                self._in_a_row[incident.node] = self._in_a_row.get(incident.node, 0) + 1 if well else 0
            reason = why_withdrawn(
                incident,
                run,
                answers_in_a_row=self._in_a_row[incident.node],
                maintenance=bool(self.store.read_maintenance(incident.node)),
            )
            if reason is not None:
                log.warning("the question about %s is withdrawn: %s", incident.id, reason)
                self.airflow.answer(question, LOOK_AGAIN)
        self._in_a_row = {node: count for node, count in self._in_a_row.items() if node in looked_at}

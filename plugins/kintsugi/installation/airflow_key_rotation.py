"""Rotation of Airflow's own keys, by a command: it stops Airflow, so no run of a DAG can do it.

Airflow knows one key of tokens at a time, and reads its keys at its start. So:

1. Wait for a quiet moment: the steady state, no node in the hands of a run, no task that runs but the ingest's.
2. Stop Airflow and the watchdog. Nodes and stream go on.
3. Make a new key of tokens, and a new Fernet key beside the old one.
4. Encrypt with it what Airflow has stored, in one transaction (`kintsugi.controlplane.airflow_encryption`). Drop the
   old one.
5. Start Airflow, also if a step has failed. Triggers go on, and Airflow starts an ended task again.

Killed at any point and run again, it goes on: two Fernet keys are a rotation that isn't finished. Killed between 2 and
5, Airflow is down until then, or until `make up`, which starts it with both.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kintsugi.controlplane.airflow_environment import AIRFLOW_PART
from kintsugi.controlplane.airflow_keys import add_fernet_key, drop_old_fernet_key, replace_token_keys
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.errors import GuardRefused
from kintsugi.core.processes import PART
from kintsugi.installation.installation_lock import hold_installation_lock
from kintsugi.operations.context import Context
from kintsugi.releases.steady_state import await_steady, observe_fleet

INGEST_POOL = "ingest"
QUIET_S = 60.0
POLL_S = 0.5


def rotate_airflow_keys(context: Context, plane: ControlPlane) -> str:
    """Renew Airflow's keys, with a stop of Airflow; returns what was done, as a sentence.

    The key of tokens stays where another auth manager signs them: our client has a token of it, which would end.
    Raises GuardRefused without a quiet moment; then nothing has changed. Raises StepFailed if what is stored can't be
    encrypted anew; then both Fernet keys stay, and Airflow runs.
    """
    if os.environ.get(PART) == AIRFLOW_PART:
        raise GuardRefused(
            "a task of Airflow can't renew Airflow's keys, because the stop would end it: run the command in a shell"
        )
    with hold_installation_lock(context.settings):
        if plane.airflow_runs():  # else a rotation was killed, and nothing is left to wait for
            await_steady(lambda: observe_fleet(context))
            await_quiet(lambda: describe_work(plane.airflow.running_tasks(), _held_nodes(context)))
        return replace_keys(plane)


def replace_keys(plane: ControlPlane) -> str:
    """Stop Airflow, replace its keys, encrypt with the new one what it has stored, and start it; returns a sentence."""
    settings, jwt = plane.settings, plane.signs_tokens()
    plane.stop_airflow()
    try:
        replace_token_keys(settings, jwt=jwt)
        add_fernet_key(settings)
        plane.encrypt_anew()
        drop_old_fernet_key(settings)
    finally:
        plane.start_airflow_again()
    tokens = "of its tokens" if jwt else "not of its tokens, because it has another auth manager"
    return f"Airflow was restarted with new keys: Fernet, of the page's forms, and {tokens}"


def describe_work(tasks: Collection[Mapping[str, Any]], held: Mapping[str, str]) -> list[str]:
    """Return what a stop of Airflow would interrupt, one sentence each. The ingest goes on where it stopped."""
    running = [
        f"{task['dag_id']}.{task['task_id']} runs" for task in tasks if task.get("pool") != INGEST_POOL
    ]
    return [*running, *(f"{holder} holds the lease of {node}" for node, holder in held.items())]


def await_quiet(working: Callable[[], Collection[str]], deadline_s: float | None = None) -> None:
    """Wait until nothing is interrupted by a stop; GuardRefused with what is after ``deadline_s`` (QUIET_S) seconds."""
    deadline_s = QUIET_S if deadline_s is None else deadline_s
    ends = time.monotonic() + deadline_s
    while work := working():
        if time.monotonic() >= ends:
            raise GuardRefused(
                f"Airflow is not stopped, because no quiet moment came within {deadline_s:.0f} s "
                f"({'; '.join(work)}): try again when that has ended"
            )
        time.sleep(POLL_S)


def _held_nodes(context: Context) -> dict[str, str]:
    leases = {node: context.store.read_lease(node) for node in context.fleet.nodes}
    return {node: lease.holder for node, lease in leases.items() if lease is not None}

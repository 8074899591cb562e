"""The record of a recovery in S3: the node's logs and the incident.

A recovery does not wait for S3. What could not be delivered waits in a spool on the control plane. The next step that
reaches S3 delivers it.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from kintsugi.core.dag_ids import is_replacement
from kintsugi.core.incident import WITHDRAWN, Incident, JournalEntry, Outcome
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET
from kintsugi.operations.context import LEASE_S, Context, RecoveryRef
from kintsugi.operations.spool import deliver_to_s3, flush_spool
from kintsugi.recovery.assessment import ConfirmedFinding, is_responding
from kintsugi.recovery.diagnosis import FailureMode
from kintsugi.recovery.sweep_rules import RUN_PREFIX

LOG_TAIL_BYTES = 5 * 1024 * 1024  # of each service, so that one noisy log can't fill the archive

KEPT = timedelta(days=90)

WELL = (Outcome.HEALED, Outcome.FALSE_ALARM, Outcome.DRY_RUN)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IncidentRecord:
    """How an incident ended. ``well``: nothing is left to do. ``text``: the summary for people."""

    well: bool
    text: str


def archive_logs(context: Context, ref: RecoveryRef) -> list[str]:
    """Store the tail of each of the node's logs under the incident; returns the keys.

    The log collector has received them line by line, so they are complete even if the host is lost.
    """
    started = time.monotonic()
    keys = []
    for path in _service_logs(context.settings.control / "node-logs" / ref.node):
        key = f"incidents/{ref.incident}/logs/{path.name}.gz"
        deliver_to_s3(context, key, gzip.compress(_log_tail(path)))
        keys.append(key)
    sentence = f"archived {len(keys)} logs under incidents/{ref.incident}/logs/"
    # It runs in parallel to the recovery: a fresh token here would fence off the step that is running.
    lease = context.store.acquire_lease(ref.node, ref.holder, LEASE_S, incident=ref.incident)
    data = {"seconds": round(time.monotonic() - started, 3), "keys": keys}
    context.store.append_entry(
        ref.incident, lease.token, "archive", sentence, data, key=f"archive {ref.holder}"
    )
    log.info(sentence)
    return keys


def _service_logs(folder: Path) -> list[Path]:
    """Return the log of each service. Right after a rotation only the rotated file exists; it counts too."""
    return sorted({*folder.glob("*.log"), *(full.with_suffix("") for full in folder.glob("*.log.1"))})


def _log_tail(path: Path) -> bytes:
    """Return the newest LOG_TAIL_BYTES of the log, from the rotated file too if the current one is shorter."""
    newest = _end_of_file(path, LOG_TAIL_BYTES)
    return _end_of_file(path.with_name(f"{path.name}.1"), LOG_TAIL_BYTES - len(newest)) + newest


def _end_of_file(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read(size)
    except FileNotFoundError:  # it was rotated just now, or never rotated
        return b""


def delete_expired_records(context: Context, now: datetime) -> int:
    """Delete incident objects from S3 that are older than KEPT at ``now`` (UTC); returns how many."""
    s3, deleted = context.s3(S3Purpose.EXPIRY), 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="incidents/"):
        for found in page.get("Contents", ()):
            if now - found["LastModified"] > KEPT:
                s3.delete_object(Bucket=BUCKET, Key=found["Key"])
                deleted += 1
    log.info("deleted %d objects of incidents that were older than %d days", deleted, KEPT.days)
    return deleted


def record_outcome(context: Context, ref: RecoveryRef) -> IncidentRecord:
    """Close the incident with the outcome that its journal shows, and put its record into S3.

    It stays open if another run still has to work on it (``stays_open``). The run fails with the reason unless nothing
    is left to do.
    """
    incident = context.store.read_incident(ref.incident)
    if incident.outcome is not None:
        return _record_again(context, ref, incident, incident.outcome)
    with context.step(ref, "record") as step:
        outcome, reason = conclude_incident(incident, ref.holder)
        step.note(reason, outcome=outcome.value)
        serves = outcome is not Outcome.FAILED or is_responding(context.node(ref))
        if not stays_open(incident, outcome, ref.holder, serves=serves):
            context.store.close_incident(ref.incident, step.token, outcome, reason)
        incident = _archive_record(context, ref)
    context.store.release_lease(ref.node, step.token)
    return IncidentRecord(well=_ended_well(outcome, ref), text=format_incident(incident, outcome, reason))


def _ended_well(outcome: Outcome, ref: RecoveryRef) -> bool:
    """Whether nothing is left to do. A replacement that was given up has destroyed nothing."""
    return outcome in WELL or (outcome is Outcome.REFUSED and is_replacement(ref.holder))


def _record_again(context: Context, ref: RecoveryRef, incident: Incident, outcome: Outcome) -> IncidentRecord:
    """Archive an incident that is closed already: by this step before it was killed, or by another run."""
    _archive_record(context, ref)
    context.store.give_back(ref.node, ref.holder)
    return IncidentRecord(
        well=_ended_well(outcome, ref), text=format_incident(incident, outcome, incident.reason or "")
    )


def _archive_record(context: Context, ref: RecoveryRef) -> Incident:
    """Put the incident as it is now into S3, then deliver the spool; returns the incident."""
    incident = context.store.read_incident(ref.incident)
    body = json.dumps(incident.to_json(), indent=2).encode()
    deliver_to_s3(context, f"incidents/{ref.incident}/incident.json", body)
    flush_spool(context)
    return incident


def stays_open(incident: Incident, outcome: Outcome, holder: str, *, serves: bool) -> bool:
    """Whether another run still has to work on the incident. Pure.

    1. A dry run closes only an incident that it opened. An incident of the watch belongs to the watch.
    2. After a failure: a node that does not serve, or has a wrong clock, is found again by its watch, and the next
       escalation step is taken. A node that serves is verified by the sweep (`sweep_rules`). If the sweep fails
       too, the incident is closed.
    3. The recovery waits: the reasons against it can go away by themselves, or the node became unreachable from here
       during its recovery. Its watch finds it again, and one failure stays one incident.
    """
    confirmed = ConfirmedFinding.of(incident, holder)
    if outcome is Outcome.DRY_RUN:
        runs = {entry.data.get("run") for entry in incident.entries if "verdict" in entry.data}
        return runs != {holder}
    if outcome is Outcome.FAILED:
        swept = f"/{RUN_PREFIX}" in holder
        return not (serves and swept) or confirmed.verdict is FailureMode.CLOCK_WRONG
    if outcome is Outcome.FALSE_ALARM and _is_waited_for(incident, holder):
        return True
    return confirmed.verdict is FailureMode.PARTITIONED and bool(incident.attempts())


def _is_waited_for(incident: Incident, run: str) -> bool:
    """Whether the guards' last answer to this run was to wait."""
    entries = [
        entry for entry in incident.entries if entry.step == "guard" and entry.data.get("run") in (None, run)
    ]
    waiting = [entry.data["waiting"] for entry in entries if "waiting" in entry.data]
    return bool(waiting and waiting[-1])


def conclude_incident(incident: Incident, run: str) -> tuple[Outcome, str]:
    """Return the outcome since the newest confirmation by ``run``, and the reason as a sentence. Pure.

    Journal entries of other runs don't count.
    """
    own = [entry for entry in incident.entries if entry.data.get("run") in (None, run)]
    since = max(i for i, entry in enumerate(own) if "verdict" in entry.data)
    entries = own[since:]
    done = {entry.step for entry in entries if entry.data.get("mark") == "end"}
    if "dry_run" in done:
        return Outcome.DRY_RUN, "Dry run: the plan was shown. Nothing was changed."
    if "canary" in done:
        proofs = [entry.message for entry in entries if entry.step == "verify" and "mark" not in entry.data]
        without = "" if incident.acted else "Recovered without action. "
        return Outcome.HEALED, without + " ".join(proofs)
    if (given_up := _reason_given_up(entries, run)) is not None:
        return Outcome.REFUSED, given_up
    if "stand_down" in done:
        return Outcome.FALSE_ALARM, entries[0].message
    return _conclude_unfinished(entries, done)


def _conclude_unfinished(entries: Sequence[JournalEntry], done: Collection[str]) -> tuple[Outcome, str]:
    failures = [entry for entry in entries if entry.data.get("mark") == "failed"]
    if failures:
        return Outcome.FAILED, f"{failures[-1].step} {failures[-1].message}"
    refusals = [entry for entry in entries if "refused" in entry.data]
    if refusals and "decide" not in done:
        return Outcome.REFUSED, refusals[-1].message
    reached = next(entry.step for entry in reversed(entries) if entry.step != "record" or entry is entries[0])
    return (
        Outcome.FAILED,
        f"the run ended after step {reached} without a reason; see its task logs in Airflow",
    )


def _reason_given_up(entries: Sequence[JournalEntry], run: str) -> str | None:
    """Return why a replacement was given up before anything was destroyed; None if it wasn't."""
    if not is_replacement(run):
        return None
    for entry in reversed(entries):
        withdrawn = entry.step == WITHDRAWN and entry.data["attempt"] == run and not entry.data.get("counts")
        if withdrawn or "given_up" in entry.data:
            return entry.message
    return None


def format_incident(incident: Incident, outcome: Outcome, reason: str) -> str:
    """Format the incident in a line: the node, the outcome, the reason, and the seconds of each phase. Pure."""
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in incident.phases().items())
    return f"{incident.node}: {outcome}. {reason} ({phases})"

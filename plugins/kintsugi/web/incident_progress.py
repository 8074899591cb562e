"""What an open incident does now, or why it makes no progress, in a few words. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from kintsugi.core.incident import PHASE_OF_STEP, Incident, Phase

# A step can take minutes (a Cassandra node streams its data), so a silent journal alone is not a failure.
SILENT_REPAIR = timedelta(minutes=10)
DOING = {
    Phase.DETECT: "failure detected",
    Phase.CONFIRM: "confirming",
    Phase.ARCHIVE: "archiving logs",
    Phase.PROVISION: "provisioning a new node",
    Phase.CONFIGURE: "configuring",
    Phase.REJOIN: "rejoining its cluster",
    Phase.VERIFY: "verifying",
}


def current_phase(incident: Incident) -> Phase:
    """The phase of an open incident: the phase of its newest journal entry."""
    for entry in reversed(incident.entries):
        phase = PHASE_OF_STEP.get(entry.kind)
        if phase is not None and phase is not Phase.ARCHIVE:
            return phase
    return Phase.CONFIRM


def describe_progress(incident: Incident, *, short: bool = False) -> str:
    """What is being done about an open incident, in a few words; ``short`` omits the newest journal entry."""
    doing = "waits for a decision" if incident.awaits_decision else DOING[current_phase(incident)]
    if incident.redundant_at is not None and current_phase(incident) is Phase.REJOIN:
        doing = "ready again, its data is being repaired"
    message = next(
        (e.message for e in reversed(incident.entries) if e.message not in ("started", "done")), ""
    )
    return doing if short or not message else f"{doing} ({message.rstrip('.')})"


def describe_stall(incident: Incident, now: datetime) -> str | None:
    """Why an open incident makes no progress; None while it makes progress."""
    if not incident.entries:
        return None if now - incident.opened_at < SILENT_REPAIR else "its journal is empty."
    last = incident.entries[-1]
    if now - last.at > SILENT_REPAIR:
        return f"the last journal entry is from {last.at:%H:%M} UTC ({last.step})."
    newest = [e for e in incident.entries if e.data.get("mark") in ("start", "end", "failed")]
    failed = [e for e in newest if e.data.get("mark") == "failed"]
    # `record` is the last step of every run: a failure that is still the newest mark then was not resolved.
    if failed and last.kind == "record" and last.data.get("mark") == "end":
        return f"{failed[-1].step} {failed[-1].message}"
    return None


def describe_refusal(incident: Incident) -> str:
    """The reasons of the newest refusal by the guards; empty when they did not refuse."""
    for entry in reversed(incident.entries):
        if "refused" in entry.data:
            return " ".join(entry.data["refused"])
    return ""

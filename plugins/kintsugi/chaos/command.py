"""Stop and allow chaos, from the command line and from Airflow."""

from __future__ import annotations

from kintsugi.chaos import janitor, switch
from kintsugi.core.errors import StepFailed
from kintsugi.core.users import current_actor
from kintsugi.operations.context import Context


def main(what: str, reason: str) -> int:
    """``kintsugi chaos-stop``, ``chaos-resume`` and ``chaos-status``: ``what`` is the word after ``chaos-``."""
    context = Context.from_environment()
    if what == "status":
        print(switch.stop_reason(context.store) or "chaos is allowed")
        for record in janitor.fault_records(context.settings):
            print(f"active: {record.kind} on {', '.join(record.nodes)} (pid {record.owner})")
    else:
        print(
            resume_chaos(context, user=current_actor())
            if what == "resume"
            else stop_chaos(context, user=current_actor(), reason=reason)
        )
    return 0


def resume_chaos(context: Context, *, user: str) -> str:
    """Allow chaos again; returns what was done."""
    switch.resume_chaos(context.store, user=user)
    return f"chaos is allowed again (by {user})"


def stop_chaos(context: Context, *, user: str, reason: str) -> str:
    """Stop all chaos and undo every recorded fault; returns what was done.

    Raises StepFailed, with the switch set, when a fault could not be undone.
    """
    switch.stop_chaos(context.store, user=user, reason=reason)
    undone = janitor.sweep_overdue(context, everything=True)
    if left := janitor.fault_records(context.settings):
        faults = ", ".join(f"{record.kind} of {' and '.join(record.nodes)}" for record in left)
        raise StepFailed(f"chaos is stopped, but {faults} is not undone yet; the janitor tries again")
    faults = "; ".join(f"undid {record.kind} of {' and '.join(record.nodes)}" for record in undone)
    return f"chaos is stopped ({faults or 'no fault was active'}); `make chaos-resume` allows it again"

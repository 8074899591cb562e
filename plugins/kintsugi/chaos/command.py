"""Stop and allow chaos, from the command line and from Airflow."""

from __future__ import annotations

import getpass

from kintsugi.chaos import janitor, switch
from kintsugi.core.errors import StepFailed
from kintsugi.operations.context import Runtime, runtime


def run(what: str, reason: str) -> int:
    """``kintsugi chaos-stop``, ``chaos-resume`` and ``chaos-status``: ``what`` is the word after ``chaos-``."""
    context = runtime()
    if what == "status":
        print(switch.stopped(context.store) or "chaos is allowed")
        for record in janitor.records(context.settings):
            print(f"active: {record.kind} on {', '.join(record.nodes)} (pid {record.owner})")
    else:
        print(resume(context) if what == "resume" else stop(context, user=getpass.getuser(), reason=reason))
    return 0


def resume(context: Runtime) -> str:
    """Allow chaos again; returns what was done."""
    switch.resume(context.store)
    return "chaos is allowed again"


def stop(context: Runtime, *, user: str, reason: str) -> str:
    """Stop all chaos and undo every recorded fault; returns what was done.

    Raises StepFailed, with the switch set, when a fault could not be undone.
    """
    switch.stop(context.store, user=user, reason=reason)
    undone = janitor.sweep(context, everything=True)
    if left := janitor.records(context.settings):
        said = ", ".join(f"{record.kind} of {' and '.join(record.nodes)}" for record in left)
        raise StepFailed(f"chaos is stopped, but {said} is not undone yet; the janitor tries again")
    said = "; ".join(f"undid {record.kind} of {' and '.join(record.nodes)}" for record in undone)
    return f"chaos is stopped ({said or 'no fault was active'}); `make chaos-resume` allows it again"

"""Find out why a step failed: because of the node, or because of the control plane.

A control plane whose disk is full can run neither Ansible nor Terraform. Every step fails then, and the next escalation
step would destroy more of the node for nothing. Such a failure withdraws the attempt and pages
(`kintsugi.notify.paging_rules`). The same step is tried again, within the repair budget of an hour.

The control plane is at fault if

1. the operating system refused disk space, file handles or memory to this process. (An error on a node arrives as
   StepFailed instead.)
2. Terraform reports that it can't write, or can't reach or lock its state.
3. a program of the control plane is missing (PreflightError).
4. anything failed while the control plane's own disk is full or can't be written.

"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kintsugi.core.errors import (
    ControlPlaneError,
    GuardRefused,
    KintsugiError,
    PreflightError,
    StaleTokenError,
    StepFailed,
)
from kintsugi.operations.context import Context, RecoveryRef

OURS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
NEEDED = 32 * 2**20
"""Bytes. A run of Ansible writes its log; a Terraform plan writes its file and the provider's cache."""
TERRAFORM = (
    "no space left on device",
    "read-only file system",
    "error acquiring the state lock",
    "failed to lock state",
    "error loading state",
    "failed to save state",
    "failed to persist state",
    "connection refused",
    "/.s.pgsql.",  # the socket of Postgres, which is missing while it restarts
)


@contextmanager
def handle_control_plane_fault(
    context: Context, ref: RecoveryRef, *, untouched: bool = False
) -> Iterator[None]:
    """Wrap a step: if the control plane is at fault, withdraw the attempt and raise ControlPlaneError.

    ``untouched``: the step destroys nothing of the node.
    """
    try:
        yield
    except (GuardRefused, StaleTokenError, ControlPlaneError):
        raise
    except (KintsugiError, OSError) as error:
        fault = fault_of_control_plane(error, context.settings.control)
        if fault is None:
            raise
        withdraw_attempt(context, ref, fault, untouched=untouched)
        raise ControlPlaneError(fault) from error


def withdraw_attempt(context: Context, ref: RecoveryRef, fault: str, *, untouched: bool) -> None:
    """Write the fault into the journal and withdraw the run's attempt. Raises StoreUnavailable."""
    with context.step(ref, "blame") as step:
        step.note(fault, control_plane=True)
        context.store.withdraw_attempt(
            ref.incident, step.token, ref.holder, fault, untouched=untouched, counts=True
        )


def fault_of_control_plane(error: BaseException, directory: Path) -> str | None:
    """Return why the control plane caused the error, as a sentence; None if it did not.

    ``directory``: a directory on the control plane's disk. The disk is checked if the error itself doesn't tell.
    """
    for cause in _error_chain(error):
        if isinstance(cause, OSError) and cause.errno in OURS:
            return f"The control plane can't work: {cause.strerror or cause} ({cause.filename or 'no file'})."
        if isinstance(cause, PreflightError):
            return f"The control plane can't work, something is missing on it: {cause}."
    text = str(error)
    of_terraform = isinstance(error, StepFailed) and text.startswith("terraform ")
    if of_terraform and any(words in text.lower() for words in TERRAFORM):
        return f"The control plane can't work: {text}."
    return disk_fault(directory)


def disk_fault(directory: Path) -> str | None:
    """Return what is wrong with the disk of ``directory``, as a sentence; None if it has room and is writable."""
    try:
        free, inodes = shutil.disk_usage(directory).free, os.statvfs(directory)
        if free < NEEDED:
            return f"The control plane's disk is full: {free:,} bytes are free at {directory}."
        if inodes.f_files and not inodes.f_favail:
            return f"The control plane's disk has no inode left at {directory}."
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"x" * 4096)
            probe.flush()
    except OSError as error:
        return f"The control plane's disk can't be used: {error}."
    return None


def _error_chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__

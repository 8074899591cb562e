"""The janitor undoes faults whose owner died or whose time is over. It is a separate process without a database.

1. The injector of a fault writes a record first (`register_fault`), and removes it after the fault is undone.
2. The record names the owner by pid and start time, and the time by which the fault must have ended.
3. A janitor runs while there are records. It undoes overdue faults, and tries again when that fails.
4. Registering starts a janitor. A second one waits until the first has ended, so only one is active at any time.

    python -m kintsugi.chaos.janitor
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kintsugi.chaos.registry import FAULTS
from kintsugi.core.errors import KintsugiError
from kintsugi.core.files import hold_lock
from kintsugi.core.process_priority import raise_priority
from kintsugi.core.processes import MARKER, PART, start_time
from kintsugi.core.settings import Settings, load_settings
from kintsugi.operations.context import Context

LOOK_EVERY_S = 1.0
_ENDING = ".fault.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """A fault that may be active.

    ``owner_started``: clock ticks since boot. ``ends_at``: the latest moment, in seconds since 1970.
    """

    id: str
    kind: str
    nodes: tuple[str, ...]
    owner: int
    owner_started: int | None
    ends_at: float

    def overdue(self, now: float) -> str | None:
        """Why the janitor must undo the fault at ``now`` (seconds since 1970); None while it must not."""
        if start_time(self.owner) != self.owner_started or self.owner_started is None:
            return f"its owner (pid {self.owner}) has ended"
        return "its time is over" if now > self.ends_at else None


def record_directory(settings: Settings) -> Path:
    """The directory of the records of one installation."""
    return settings.control / "chaos"


def _record_path(settings: Settings, record: FaultRecord) -> Path:
    return record_directory(settings) / f"{record.id}{_ENDING}"


def register_fault(settings: Settings, kind: str, nodes: tuple[str, ...], longest_s: float) -> FaultRecord:
    """Record a fault before it is injected, and start a janitor; the caller's process is the owner."""
    record = FaultRecord(
        id=f"{kind}-{secrets.token_hex(4)}",
        kind=kind,
        nodes=nodes,
        owner=os.getpid(),
        owner_started=start_time(os.getpid()),
        ends_at=time.time() + longest_s,
    )
    record_directory(settings).mkdir(parents=True, exist_ok=True)
    path = _record_path(settings, record)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(path)
    start_janitor()
    return record


def forget_fault(settings: Settings, record: FaultRecord) -> None:
    """Remove the record of a fault that was undone."""
    _record_path(settings, record).unlink(missing_ok=True)


def fault_records(settings: Settings) -> list[FaultRecord]:
    """Every fault that may be active; an unreadable record is skipped and logged."""
    records = []
    for path in sorted(record_directory(settings).glob(f"*{_ENDING}")):
        with suppress(FileNotFoundError):
            try:
                document = json.loads(path.read_text())
                records.append(FaultRecord(**{**document, "nodes": tuple(document["nodes"])}))
            except (ValueError, TypeError, KeyError) as error:
                log.warning("%s can't be read: %r", path, error)
    return records


def sweep_overdue(context: Context, *, everything: bool = False) -> list[FaultRecord]:
    """Undo overdue faults (``everything``: all recorded faults); returns the undone ones.

    Never raises: a fault that can't be undone now keeps its record for the next time.
    """
    done = []
    for record in fault_records(context.settings):
        why = "all faults are undone" if everything else record.overdue(time.time())
        if why is None:
            continue
        take_back = FAULTS[record.kind].take_back if record.kind in FAULTS else None
        try:
            if take_back is not None:
                take_back(context, record.nodes)
        except (KintsugiError, OSError, subprocess.SubprocessError) as error:
            log.warning("%s of %s can't be undone: %s", record.kind, ", ".join(record.nodes), error)
            continue
        log.info("undid %s of %s: %s", record.kind, ", ".join(record.nodes), why)
        forget_fault(context.settings, record)
        done.append(record)
    return done


def start_janitor() -> None:
    """Start a janitor that outlives this process and is not part of the control plane."""
    left_out = (
        MARKER,
        PART,
    )  # else it would end with the control plane, also when an experiment kills that
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    subprocess.Popen(
        [sys.executable, "-m", "kintsugi.chaos.janitor"],
        env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def run_janitor(settings: Settings, context: Context) -> int:
    """Undo overdue faults until there are no records; one janitor per installation at a time."""
    with suppress(FileNotFoundError), hold_lock(record_directory(settings) / "janitor.lock"):
        while fault_records(settings):
            sweep_overdue(context)
            time.sleep(LOOK_EVERY_S)
    return 0


def main() -> int:
    """Run the janitor of the installation that the environment defines."""
    logging.basicConfig(level=logging.INFO)
    raise_priority()
    return run_janitor(load_settings(), Context.from_environment())


if __name__ == "__main__":
    sys.exit(main())

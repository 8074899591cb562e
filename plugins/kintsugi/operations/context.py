"""What a recovery works with: a reference to it, which is passed between tasks, and access to the systems outside."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kintsugi.core.connections import s3_client, store_dsn
from kintsugi.core.errors import StaleTokenError
from kintsugi.core.fleet import Fleet, Node
from kintsugi.core.process_priority import first_in_line
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.patience import PROCESS, TASK
from kintsugi.db.store import Store, StoreUnavailable
from kintsugi.environments.platforms import platform_of
from kintsugi.infra.ansible import Ansible
from kintsugi.infra.terraform import Terraform
from kintsugi.probes.observe import SERVICES
from kintsugi.probes.service_log import written_since

if TYPE_CHECKING:
    from kintsugi.db.leases import Lease
    from kintsugi.environments.base import Platform

LEASE_S = 300.0
RENEW_S = 60.0  # a step may take longer than its lease, for example one that streams or repairs data

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecoveryRef:
    """One recovery under way: its incident, its node, and the holder of the lease."""

    incident: str
    node: str
    holder: str

    def to_xcom(self) -> dict[str, str]:
        return {"incident": self.incident, "node": self.node, "holder": self.holder}

    @classmethod
    def from_xcom(cls, value: dict[str, str]) -> RecoveryRef:
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Context:
    """Access to the systems outside: the fleet, the database, S3, Terraform, Ansible."""

    settings: Settings
    fleet: Fleet
    store: Store

    @classmethod
    def from_environment(cls) -> Context:
        """The context as the environment (Airflow's connections, else the settings) defines it."""
        settings = load_settings()
        patience = max(TASK, PROCESS.patience, key=lambda one: one.late_s)
        return cls(
            settings=settings, fleet=settings.fleet, store=Store(store_dsn(settings), patience=patience)
        )

    def node(self, ref: RecoveryRef) -> Node:
        return self.fleet.node(ref.node)

    def s3(self, purpose: S3Purpose) -> Any:
        return s3_client(self.settings, purpose)

    def s3_in_time(self, purpose: S3Purpose) -> Any:
        """Return an S3 client for the steps of a recovery: a call fails within seconds if S3 hangs."""
        return s3_client(self.settings, purpose, in_time=True)

    def terraform(self) -> Terraform:
        return Terraform(self.settings)

    def platform(self) -> Platform:
        return platform_of(self.settings)

    def ansible(self) -> Ansible:
        return Ansible(self.settings)

    def said(self, name: str, words: str, since: datetime) -> list[str]:
        """Return the service's log lines with ``words`` (a sed pattern) since then, by the node's clock.

        Raises StepFailed if the node can't be asked.
        """
        path = self.settings.node_root(name) / "log" / f"{SERVICES[self.fleet.node(name).role]}.log"
        return written_since(
            self.platform().run(name, ["sed", "-n", f"/{words}/p", str(path)]).splitlines(), since
        )

    @contextmanager
    def step(self, ref: RecoveryRef, name: str) -> Iterator[FencedStep]:
        """Run one step under a fresh fencing token; its start, end or failure goes into the journal.

        The lease is renewed as long as the step's process lives. Raises LeaseHeld if another run has taken it, and
        IncidentClosed if its incident is closed. If a newer step has started, the next action
        raises StaleTokenError.
        """
        lease = self.store.acquire_lease(
            ref.node, ref.holder, LEASE_S, fresh_token=True, incident=ref.incident
        )
        step = FencedStep(self, ref, name, lease.token)
        step.note("started", mark="start")
        try:
            with first_in_line(), lease_renewal(self.store, lease):
                yield step
        except BaseException as error:  # Airflow's time-out is not a subclass of Exception
            step.note(f"failed: {str(error) or type(error).__name__}", mark="failed")
            raise
        step.note("done", mark="end")


@contextmanager
def lease_renewal(store: Store, lease: Lease) -> Iterator[None]:
    """Renew the lease while the block runs, until a newer token shows that another run holds it."""
    ended = threading.Event()

    def renew_lease() -> None:
        while not ended.wait(RENEW_S):
            try:
                store.renew_lease(lease.node, lease.token, LEASE_S)
            except StoreUnavailable as away:
                log.warning("%s", away)
            except StaleTokenError as fenced:
                log.warning("%s", fenced)
                return

    thread = threading.Thread(target=renew_lease, name=f"lease of {lease.node}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class FencedStep:
    """A step under way: it writes to the journal and checks its fencing token before each action."""

    context: Context
    ref: RecoveryRef
    name: str
    token: int

    def check(self) -> None:
        """Check the fencing token; call it right before a destructive action.

        Raises StaleTokenError unless this step's token is the newest, and IncidentClosed if its incident is closed.
        """
        self.context.store.check_lease(self.ref.node, self.token, incident=self.ref.incident)

    def note(self, message: str, **data: Any) -> None:
        """Add a sentence to the incident's journal and to the task's log."""
        self.note_as(self.name, message, **data)

    def note_as(self, step: str, message: str, **data: Any) -> None:
        """Add a sentence to the journal in the name of another step, whose work this step repeated."""
        log.info("%s: %s", step, message)
        # Two runs may work on one incident by turns, such as a dry run while the watch's run waits for a person.
        data = {"run": self.ref.holder} | data
        self.context.store.append_entry(self.ref.incident, self.token, step, message, data)

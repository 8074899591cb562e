"""Deliver messages of the outbox by kind. Each function may run twice for the same message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kintsugi.core.dag_ids import RECOVERY_DAG
from kintsugi.core.errors import KintsugiError
from kintsugi.db.database import StoreUnavailable
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.outbox import MessageKind, Outbox, OutboxMessage
from kintsugi.db.store import Store
from kintsugi.notify.channels import Channel, load_channels
from kintsugi.notify.runbooks import runbook_link
from kintsugi.telemetry.backend import load_backend
from kintsugi.telemetry.incident_trace import incident_trace
from kintsugi.telemetry.ingest_trace import ingest_trace
from kintsugi.telemetry.markers import Marker, load_markers
from kintsugi.telemetry.trace import Span, export_trace

REPLAY_DAG = "replay_trades"

log = logging.getLogger(__name__)


class Undelivered(KintsugiError):
    """Not every receiver accepted the message; ``receipt`` lists those that did."""

    def __init__(self, reason: str, receipt: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.receipt = receipt


class NoRecipient(KintsugiError):
    """This kind of message has no receiver, so it is not tried again."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What deliveries need. ``trigger`` starts a DAG run: (DAG, conf, run id), once for each run id."""

    outbox: Outbox
    store: Store
    ledger: IngestLedger
    resource: Mapping[str, str]
    trigger: Callable[[str, Mapping[str, Any], str], object]

    def deliver_one(self, *kinds: MessageKind) -> bool:
        """Deliver the oldest due message of these kinds; False when there is none.

        A message that is not accepted is tried again later. Raises only StoreUnavailable.
        """
        message = self.outbox.claim_message(kinds)
        if message is None:
            return False
        try:
            receipt = self._deliver(message)
        except StoreUnavailable:
            raise
        except NoRecipient as error:
            log.warning("%s has no receiver: %s", message.key, error)
            self.outbox.give_up(message.key, str(error))
        except Exception as error:  # noqa: BLE001 - one message that fails must not block the others
            receipt = error.receipt if isinstance(error, Undelivered) else {}
            if self.outbox.record_failure(message, str(error), receipt):
                log.error("%s was given up after %d attempts: %s", message.key, message.attempts, error)
            else:
                log.warning("%s was not delivered (attempt %d): %s", message.key, message.attempts, error)
        else:
            self.outbox.mark_delivered(message.key, receipt)
            log.info("delivered %s", message.key)
        return True

    def _deliver(self, message: OutboxMessage) -> Mapping[str, Any]:
        if message.kind in (MessageKind.PAGE, MessageKind.DIGEST):
            return notify_people(message, load_channels())
        if message.kind is MessageKind.MARKER:
            return self._marker(message)
        if message.kind is MessageKind.RECOVERY:
            conf = {"node": message.body["node"], "action": "auto", "dry_run": False}
            return {"run": str(self.trigger(RECOVERY_DAG, conf, message.body["run"]))}
        if message.kind is MessageKind.REPLAY:
            return {"run": str(self.trigger(REPLAY_DAG, message.body["conf"], message.body["run"]))}
        return self._trace(message)

    def _trace(self, message: OutboxMessage) -> Mapping[str, Any]:
        target = load_backend()
        if target is None:
            raise NoRecipient("the connection kintsugi_otlp does not exist any more")
        span = self._span(message)
        export_trace(target, span, self.resource)
        return {"trace": span.key}

    def _span(self, message: OutboxMessage) -> Span:
        if message.kind is MessageKind.INCIDENT_TRACE:
            return incident_trace(self.store.read_incident(message.body["incident"]))
        for entry in self.ledger.entries(message.body["key"]):
            if (entry.key, entry.etag) == (message.body["key"], message.body["etag"]):
                return ingest_trace(entry)
        raise NoRecipient(f"the ledger does not contain {message.body['key']} any more")

    def _marker(self, message: OutboxMessage) -> Mapping[str, Any]:
        api = load_markers()
        if api is None:
            raise NoRecipient("the connection kintsugi_honeycomb does not exist any more")
        body = message.body
        end = body.get("end")
        marker = Marker(
            body["type"],
            body["message"],
            datetime.fromisoformat(body["start"]),
            datetime.fromisoformat(end) if end else None,
        )
        if end is None:
            return {"id": api.put(marker)}
        marker_id = self.outbox.read_receipt(body["begin_key"]).get("id")
        return {"id": api.put(marker, marker_id)}


def notify_people(message: OutboxMessage, channels: list[Channel]) -> Mapping[str, Any]:
    """Send to every channel that accepts this kind and has not received the message; returns who has it.

    Raises Nobody when no channel accepts this kind, and Undelivered when a channel failed.
    """
    receivers = [channel for channel in channels if channel.takes(message.kind.value)]
    if not receivers:
        raise NoRecipient(f"no channel accepts a {message.kind}: define the connection kintsugi_apprise")
    receipt = dict(message.receipt)
    refusals = []
    for channel in receivers:
        if channel.name in receipt:
            continue
        try:
            channel.send(message.body["title"], text_of(message))
        except KintsugiError as error:
            refusals.append(str(error))
        else:
            receipt[channel.name] = "told"
    if refusals:
        raise Undelivered("; ".join(refusals), receipt)
    return receipt


def text_of(message: OutboxMessage) -> str:
    """The text of a message: a page ends with the link of its runbook, and every message with its key.

    The key shows that two messages are the same one.
    """
    lines = [message.body["text"]]
    if message.kind is MessageKind.PAGE:
        lines.append(f"Runbook: {runbook_link(message.key)}")
    return "\n".join([*lines, "", f"[{message.key}]"])

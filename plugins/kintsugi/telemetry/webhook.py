"""Honeycomb's trigger webhook: ``POST /honeycomb/trigger`` on Airflow's api-server starts recoveries.

Honeycomb waits 10 to 15 s for an answer, and repeats a delivery under the same id when the connection fails or the
answer is 408, 429, 502 or 503 (with Retry-After). So the request is only authenticated (shared secret), parsed, and
put into the outbox under its delivery id. The watchdog starts ``recover_node`` from there, with a run id made of the
delivery id. A repeated delivery changes nothing.

It needs no sign-in to Airflow, because Honeycomb has no user. The secret is the password of the connection
``kintsugi_honeycomb_webhook``. Without that connection it answers 503 to every request, and 403 if the secret is
shorter than MIN_SECRET. Requests are counted: more than ACCEPTED_PER_MINUTE with the secret, or more than
REFUSED_PER_MINUTE without it, get 429. A sender without the secret can't use up the requests of one that has it.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kintsugi.core.connections import read_connection, store_dsn
from kintsugi.core.dag_ids import WEBHOOK_RUN
from kintsugi.core.errors import InputError
from kintsugi.core.fleet import Fleet
from kintsugi.core.settings import load_settings
from kintsugi.db.database import StoreUnavailable
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.telemetry.honeycomb_alert import Alert, parse_alert

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

CONNECTION = "kintsugi_honeycomb_webhook"
TOKEN_HEADER = "X-Honeycomb-Webhook-Token"  # noqa: S105 - the header's name
DELIVERY_HEADER = "X-Honeycomb-Webhook-Delivery-ID"
MAX_BYTES = 1_000_000
MAX_DELIVERY_ID = 100
RETRY_AFTER_S = 5
MIN_SECRET = 16  # characters
ACCEPTED_PER_MINUTE = 60
REFUSED_PER_MINUTE = 30
SHOWN = 20  # unknown names in a response

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookReply:
    """The response to Honeycomb: HTTP status and JSON body."""

    status: int
    body: dict[str, Any]


TOO_LARGE = WebhookReply(413, {"error": f"the body has more than {MAX_BYTES} bytes"})
TOO_MANY = WebhookReply(429, {"error": "too many requests in the last minute; send it again later"})


class RequestLimit:
    """At most ``per_minute`` requests in any 60 s of the process's clock."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: deque[float] = deque(maxlen=per_minute)

    def allows(self) -> bool:
        """Count a request; False, and it does not count, when there were too many."""
        now = self._clock()
        if len(self._newest) == self._newest.maxlen and now - self._newest[0] < 60:
            return False
        self._newest.append(now)
        return True


def recovery_run(delivery: str, node: str) -> str:
    """The id of the run of ``recover_node`` for a delivery."""
    return f"{WEBHOOK_RUN}{delivery}__{node}"


def decide_reply(
    alert: Alert, delivery: str, fleet: Fleet, put: Callable[[str, MessageKind, dict[str, Any]], bool]
) -> WebhookReply:
    """Put the recoveries for ``alert`` into the outbox (``put``); returns the response."""
    if not alert.firing:
        return WebhookReply(200, {"result": f"nothing to do: {alert.name} is resolved"})
    nodes = ", ".join(fleet.nodes)
    if not alert.nodes:
        problem = (
            f"names no node of this fleet: {', '.join(alert.unknown[:SHOWN])}"
            if alert.unknown
            else "names no node"
        )
        return WebhookReply(
            422,
            {
                "error": f"{alert.name} {problem}; group the trigger by kintsugi.node. The nodes are: {nodes}",
                "unknown": list(alert.unknown[:SHOWN]),
            },
        )
    if alert.test:
        return WebhookReply(
            200, {"result": f"test received; nothing was started. It names {', '.join(alert.nodes)}"}
        )
    started: list[str] = []
    repeated: list[str] = []
    for node in alert.nodes:
        run = recovery_run(delivery, node)
        body = {"node": node, "run": run, "reason": f"{alert.name}: {alert.summary}"}
        (started if put(f"recovery/{delivery}/{node}", MessageKind.RECOVERY, body) else repeated).append(run)
    log.info("%s (delivery %s): started %s, repeated %s", alert.name, delivery, started, repeated)
    result = {"runs": started, "repeated": repeated, "unknown": list(alert.unknown[:SHOWN])}
    return WebhookReply(202 if started else 200, result)


def create_app(
    fleet: Callable[[], Fleet], secret: Callable[[], str | None], outbox: Callable[[], Outbox]
) -> Starlette:
    """The application; its three arguments are called at each request, so it can start before their values exist."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def answer_delivery(delivery: str, body: bytes) -> WebhookReply:
        nodes = fleet()
        try:
            return decide_reply(parse_alert(body, nodes), delivery, nodes, outbox().add_message)
        except InputError as error:
            return WebhookReply(400, {"error": str(error)})
        except StoreUnavailable as error:
            log.warning("delivery %s was refused: %s", delivery, error)
            return WebhookReply(
                503, {"error": "Postgres does not answer; nothing was started. Send it again"}
            )

    accepted, refused = RequestLimit(ACCEPTED_PER_MINUTE), RequestLimit(REFUSED_PER_MINUTE)

    async def handle_trigger(request: Request) -> JSONResponse:
        refusal = _check_secret(secret(), request.headers.get(TOKEN_HEADER))
        if refusal is not None:
            answer = refusal if refused.allows() else TOO_MANY
            return JSONResponse(answer.body, answer.status)
        delivery = request.headers.get(DELIVERY_HEADER, "")
        answer = TOO_MANY if not accepted.allows() else await decide_answer(request, delivery)
        again = {"Retry-After": str(RETRY_AFTER_S)} if answer.status in (429, 503) else None
        return JSONResponse(answer.body, answer.status, headers=again)

    async def decide_answer(request: Request, delivery: str) -> WebhookReply:
        misnamed = _check_delivery_id(delivery)
        if misnamed is not None:
            return misnamed
        body = await _read_body(request)
        return TOO_LARGE if body is None else await run_in_threadpool(answer_delivery, delivery, body)

    return Starlette(routes=[Route("/trigger", handle_trigger, methods=["POST"])])


async def _read_body(request: Request) -> bytes | None:
    """The body; None when it is larger than MAX_BYTES; then reading stops."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > MAX_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def _check_secret(secret: str | None, token: str | None) -> WebhookReply | None:
    if not secret:
        reason = (
            f"no webhook is configured here: define the connection {CONNECTION} with the secret as password"
        )
        return WebhookReply(503, {"error": reason})
    if len(secret) < MIN_SECRET:
        reason = f"the webhook is closed: the secret of {CONNECTION} has fewer than {MIN_SECRET} characters"
        return WebhookReply(403, {"error": reason})
    # Compared as bytes: compare_digest rejects text that is not ASCII.
    if not hmac.compare_digest((token or "").encode(), secret.encode()):
        return WebhookReply(401, {"error": f"the header {TOKEN_HEADER} is missing or wrong"})
    return None


def _check_delivery_id(delivery: str) -> WebhookReply | None:
    """A refusal when the delivery id can't be part of a run id and of a key; None otherwise."""
    letters = delivery.replace("-", "").replace("_", "")
    if 0 < len(delivery) <= MAX_DELIVERY_ID and letters.isascii() and letters.isalnum():
        return None
    reason = f"the header {DELIVERY_HEADER} is missing or not a valid id; it identifies repeated deliveries"
    return WebhookReply(400, {"error": reason})


def webhook_secret() -> str | None:
    """The shared secret from the connection; None without one."""
    defined = read_connection(CONNECTION)
    return str(defined["password"]) if defined and defined.get("password") else None


def create_installed_app() -> Starlette:
    """The application on this installation's fleet, secret and outbox."""
    settings = load_settings()
    return create_app(lambda: settings.fleet, webhook_secret, lambda: Outbox(store_dsn(settings)))

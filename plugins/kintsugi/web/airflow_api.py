"""Airflow's REST API, called inside the api-server's process in the name of the signed-in user.

The request carries the user's own credentials, so Airflow checks the permission and writes its audit log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kintsugi.web.actions import Request

_CREDENTIALS = ("authorization", "cookie")
_TIMEOUT_S = 20.0

Send = Callable[[Request, Mapping[str, str]], Awaitable["AirflowReply"]]


@dataclass(frozen=True, slots=True)
class AirflowReply:
    """Airflow's answer: ``run_id`` of the run that was started, ``said`` the reason of a refusal."""

    status: int
    run_id: str | None = None
    said: str = ""

    @property
    def done(self) -> bool:
        return self.status < 300


async def send_request(wanted: Request, headers: Mapping[str, str]) -> AirflowReply:
    """Send ``wanted`` with the credentials in ``headers``, the headers of the user's own request."""
    import httpx
    from airflow.api_fastapi.main import app

    own = {name: value for name, value in headers.items() if name.lower() in _CREDENTIALS}
    # The referer tells Airflow that a person acted in the UI, not a program.
    own["referer"] = "http://airflow/pipeline-health/"
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://airflow", timeout=_TIMEOUT_S
    ) as client:
        answer = await client.request(
            wanted.method, f"/api/v2{wanted.path}", json=dict(wanted.body), headers=own
        )
    return read_reply(answer.status_code, _read_json(answer))


def read_reply(status: int, document: Any) -> AirflowReply:
    """Airflow's status and JSON as an Answer. Pure."""
    if status < 300:
        return AirflowReply(status, document.get("dag_run_id") if isinstance(document, dict) else None)
    said = document.get("detail", document) if isinstance(document, dict) else document
    return AirflowReply(status, said=str(said)[:500])


def _read_json(answer: Any) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text

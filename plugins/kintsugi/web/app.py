"""The page as a FastAPI application, to be mounted by Airflow: routes only.

``/``: the page. ``/live``: the panels that changed since the last request, once a second; 204 when none changed.
``/actions/…``: the form that describes an action (GET), and the action (POST); ``/deeds/…`` is its name of the last
release. Every route needs a signed-in user who may read DAGs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from kintsugi.core.errors import InputError, KintsugiError
from kintsugi.core.incident import Incident
from kintsugi.core.settings import PAGE_FORMS_SECRET, Settings
from kintsugi.db.dashboard import Listing
from kintsugi.db.store import Store, StoreUnavailable
from kintsugi.web import actions, archive, incident_view
from kintsugi.web.access import Authorizer, Tokens, same_origin
from kintsugi.web.airflow_api import Send
from kintsugi.web.assets import load_asset
from kintsugi.web.flow import chart_series
from kintsugi.web.pages import PageRenderer, Viewer
from kintsugi.web.polling_cache import Hub

PATIENCE_S = 1.5
S3_WITHIN_S = 6.0
PAGE = 25
# Only our own scripts run; only Airflow's own pages may frame this page.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class WebContext:
    """What the page needs: permissions (gate), readings (hub, listing) and actions (send)."""

    settings: Settings
    gate: Authorizer
    hub: Hub
    send: Send
    listing: Callable[[], Listing]
    store: Callable[[], Store]


def create_app(context: WebContext) -> FastAPI:
    """The application. Every route needs authentication, and no route shows API documentation."""
    app = FastAPI(
        title="Pipeline Health",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(context.gate.reader)],
    )
    pages = PageRenderer(context.settings)
    _add_security(app, pages)
    _add_panels(app, context, pages)
    _add_incidents(app, context, pages)
    _add_actions(app, context, pages)
    return app


def _add_security(app: FastAPI, pages: PageRenderer) -> None:
    @app.middleware("http")
    async def add_headers(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(StarletteHTTPException)
    async def show_refusal(request: Request, error: StarletteHTTPException) -> Response:
        return _render_error(request, pages, error.status_code, str(error.detail))

    @app.exception_handler(KintsugiError)
    async def show_error(request: Request, error: KintsugiError) -> Response:
        return _render_error(request, pages, 422 if isinstance(error, InputError) else 503, str(error))


def _render_error(request: Request, pages: PageRenderer, status: int, reason: str) -> Response:
    if "hx-request" in request.headers:
        return HTMLResponse(pages.render("said.html", level="bad", reason=reason), status)
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(pages.page("error.html", request, status=status, reason=reason), status)
    return JSONResponse({"detail": reason}, status)


def _add_panels(app: FastAPI, context: WebContext, pages: PageRenderer) -> None:
    reader = Depends(context.gate.reader)

    @app.get("/", response_class=HTMLResponse)
    async def show_front(request: Request, user: Any = reader) -> str:
        readings = await context.hub.readings(patience_s=PATIENCE_S)
        return pages.front(request, readings, _describe_viewer(context, user))

    @app.get("/live", response_class=HTMLResponse)
    async def send_changes(seen: str = "", user: Any = reader) -> Response:
        """The panels whose digest is not in ``seen`` (digests separated by dots), and the next poll."""
        readings = await context.hub.readings()
        changed = pages.changes(readings, _describe_viewer(context, user), frozenset(seen.split(".")))
        return Response(status_code=204) if changed is None else HTMLResponse(changed)

    @app.get("/series")
    async def send_flow_series() -> JSONResponse:
        """The last hours of the flow: ``at``, ``lag``, ``in``, ``out`` as of kintsugi.web.flow.chart_series."""
        reading = (await context.hub.readings(patience_s=PATIENCE_S))["flow"]
        return JSONResponse(chart_series(reading.value.samples if reading.value else ()))

    @app.get("/static/{name}")
    async def send_asset(name: str) -> Response:
        asset = load_asset(name, context.settings.jars("web"))
        if asset is None:
            raise HTTPException(404, f"there is no file {name!r}")
        # The page names files with their digest, so browsers may cache them.
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "ETag": f'"{asset.digest}"'}
        return Response(asset.body, media_type=asset.media_type, headers=headers)


def _add_incidents(app: FastAPI, context: WebContext, pages: PageRenderer) -> None:
    @app.get("/incidents", response_class=HTMLResponse)
    async def show_incidents(
        request: Request,
        node: str | None = None,
        outcome: str | None = None,
        before: str | None = None,
        more: bool = False,
    ) -> str:
        """A page of incidents; ``before`` is ``opened_at~id`` of the last one shown, ``more`` returns only rows."""
        mark = _parse_mark(before)
        newest = await asyncio.to_thread(
            context.listing().list_incidents,
            PAGE + 1,
            before=mark,
            node=node or None,
            outcome=outcome or None,
        )
        rows = [incident_view.build_row(incident) for incident in newest[:PAGE]]
        more_rows = {"rows": rows, "further": len(newest) > PAGE, "node": node, "outcome": outcome}
        if more:
            return pages.render("incident_rows.html", **more_rows)
        return pages.page("incidents.html", request, **more_rows)

    @app.get("/incidents/{incident_id}", response_class=HTMLResponse)
    async def show_incident(request: Request, incident_id: str) -> str:
        record = await _read_incident(context, incident_id)
        return pages.page(
            "incident.html",
            request,
            row=incident_view.build_row(record),
            lines=incident_view.list_journal(record),
        )

    @app.get("/incidents/{incident_id}/archive", response_class=HTMLResponse)
    async def show_archive(incident_id: str) -> str:
        await _read_incident(context, incident_id)
        kept = await _from_s3(archive.read_archive, context.settings, incident_id)
        if isinstance(kept, str):
            return pages.render("archive.html", error=kept, changes=[], logs=[], incident_id=incident_id)
        changes = incident_view.list_changes(kept.plan) if kept.plan else []
        return pages.render(
            "archive.html", error="", changes=changes, logs=sorted(kept.logs), incident_id=incident_id
        )

    @app.get("/incidents/{incident_id}/logs/{name}", response_class=HTMLResponse)
    async def show_log_tail(incident_id: str, name: str) -> str:
        await _read_incident(context, incident_id)
        text = await _from_s3(archive.log_tail, context.settings, incident_id, name)
        return pages.render("log.html", name=name, text=text)


async def _read_incident(context: WebContext, incident_id: str) -> Incident:
    try:
        return await asyncio.to_thread(context.store().read_incident, incident_id)
    except StoreUnavailable:
        raise
    except KintsugiError as error:
        raise HTTPException(404, str(error)) from error


async def _from_s3(ask: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of S3, or a sentence (str) that says why there is none."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return await asyncio.wait_for(asyncio.to_thread(ask, *arguments), S3_WITHIN_S)
    except TimeoutError:
        return f"S3 did not answer within {S3_WITHIN_S:.0f} s. Reload the page to try again."
    except (BotoCoreError, ClientError) as error:
        return f"S3 returned an error: {error}"


def _add_actions(app: FastAPI, context: WebContext, pages: PageRenderer) -> None:
    reader = Depends(context.gate.reader)
    tokens = Tokens(context.settings.secret(PAGE_FORMS_SECRET))

    # Under /deeds the pages that a browser opened before an update still work, for one release.
    @app.get("/actions/{name}", response_class=HTMLResponse)
    @app.get("/deeds/{name}", response_class=HTMLResponse)
    async def show_action(request: Request, name: str, target: str = "", user: Any = reader) -> str:
        """The form: what will happen, and the button that starts it."""
        wanted = actions.describe_action(name, target, context.settings.fleet)
        allowed = context.gate.may(user, _example_request(wanted, context.settings))
        return pages.page_or_part(
            "action.html", request, action=wanted, token=tokens.make(user), allowed=allowed
        )

    @app.post("/actions/{name}", response_class=HTMLResponse, dependencies=[Depends(same_origin)])
    @app.post("/deeds/{name}", response_class=HTMLResponse, dependencies=[Depends(same_origin)])
    async def send_action(request: Request, name: str, user: Any = reader) -> str:
        """Carry out the action in the user's name with Airflow's API."""
        form = {key: str(value) for key, value in (await request.form()).items()}
        tokens.check(form.get("token", ""), user)
        wanted = actions.build_request(name, form.get("target", ""), form, context.settings.fleet)
        if not context.gate.may(user, wanted):
            raise HTTPException(
                403, f"{user.get_name()} may not do this: the Airflow role lacks the permission."
            )
        answer = await context.send(wanted, request.headers)
        if not answer.done:
            raise HTTPException(answer.status, f"Airflow refused: {answer.said}")
        return pages.page_or_part("done.html", request, wanted=wanted, answer=answer, user=user.get_name())


def _example_request(wanted: actions.PageAction, settings: Settings) -> actions.Request:
    values = {entry.name: entry.value or "-" for entry in wanted.fields}
    return actions.build_request(wanted.name, wanted.target, values, settings.fleet)


def _describe_viewer(context: WebContext, user: Any) -> Viewer:
    wanted = actions.Request("POST", "", {}, "recover_node")
    return Viewer(name=user.get_name(), acts=context.gate.may(user, wanted))


def _parse_mark(before: str | None) -> tuple[datetime, str] | None:
    if not before:
        return None
    at, _, identity = before.partition("~")
    try:
        return datetime.fromisoformat(at), identity
    except ValueError as error:
        raise InputError(f"before={before!r} is not <time>~<incident id>") from error

"""No documentation of the API for anybody: Airflow's api-server answers it to users who have not signed in.

``[api] enable_swagger_ui`` switches off two of the pages of the main application. Its ``openapi.json``, and all of the
mounted applications (``/auth``, ``/execution``), stay. So a middleware answers 404 before any application is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PREFIXES = ("", "/auth", "/execution", "/honeycomb", "/pipeline-health")
PAGES = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/changelog")
HIDDEN = frozenset(prefix + page for prefix in PREFIXES for page in PAGES)


class HideDocumentation:
    """Middleware (ASGI) around the whole api-server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_documentation(scope["path"], scope.get("root_path", "")):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"detail":"Not Found"}'})


def is_documentation(path: str, root_path: str = "") -> bool:
    """Whether the path is one of an API's documentation; ``root_path``: what Airflow's base URL adds before it."""
    return path.removeprefix(root_path).rstrip("/") in HIDDEN

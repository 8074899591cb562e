"""The page with its real doors, as Airflow mounts it.

Every part of Airflow loads plugins (the scheduler, each task), but only the api-server needs the page. So it is made
when the first request comes: elsewhere nothing of it is imported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

PREFIX = "/pipeline-health"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class LatePage:
    """An ASGI application that becomes the page at its first request."""

    def __init__(self) -> None:
        self._page: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._page = self._page or real_page()
        await self._page(scope, receive, send)


def real_page() -> Any:
    """The page on this installation's store, S3, fleet and Airflow."""
    from kintsugi.core.connections import store_dsn
    from kintsugi.core.settings import load_settings
    from kintsugi.db.dashboard import Listing
    from kintsugi.db.store import Store
    from kintsugi.web import airflow_api, sources
    from kintsugi.web.access import AirflowGate
    from kintsugi.web.app import Doors, create_app
    from kintsugi.web.polling_cache import Hub

    settings = load_settings()
    return create_app(
        Doors(
            settings=settings,
            gate=AirflowGate(),
            hub=Hub(sources.of(settings)),
            send=airflow_api.send,
            listing=lambda: Listing(store_dsn(settings)),
            store=lambda: Store(store_dsn(settings)),
        )
    )

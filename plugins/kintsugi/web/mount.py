"""The page as Airflow mounts it.

Every component of Airflow loads plugins (the scheduler, each task), but only the api-server needs the page. So the page
is built at the first request, and the other components import nothing of it.
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
        from kintsugi.web.real_page import real_page  # start-up: only the api-server needs the page

        self._page = self._page or real_page()
        await self._page(scope, receive, send)

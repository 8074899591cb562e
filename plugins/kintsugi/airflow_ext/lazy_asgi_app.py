"""An ASGI application that is built at its first request.

Every component of Airflow loads every plugin (the scheduler, each task), but only the api-server needs the applications
of plugins. The other components import nothing of them.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class LazyAsgiApp:
    """The application that ``factory`` returns; ``factory``: a function without arguments, as ``module:name``."""

    def __init__(self, factory: str) -> None:
        self._factory = factory
        self._app: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            self._app = resolve_name(self._factory)()
        await self._app(scope, receive, send)

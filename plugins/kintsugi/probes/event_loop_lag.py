"""How long our own event loop was blocked. A watch that wasn't scheduled must not report the node for it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

_TICK_S = 0.2


class LoopLag:
    """Measures for how many seconds the running event loop was blocked; an async context manager.

    A timer is due every 0.2 s. The time by which it is called late is time in which the loop was blocked.
    """

    def __init__(self) -> None:
        self._late_s = 0.0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._arm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + _TICK_S
        self._timer = loop.call_at(self._due_s, self._tick)

    def _tick(self) -> None:
        self._late_s += max(0.0, asyncio.get_running_loop().time() - self._due_s)
        self._arm()

    def take(self) -> float:
        """Return the seconds in which the loop was blocked since the last call of ``take`` (or since the start)."""
        # The loop may have been blocked until this call: the timer is overdue, but hasn't been called yet.
        overdue_s = max(0.0, asyncio.get_running_loop().time() - self._due_s)
        late_s, self._late_s = self._late_s + overdue_s, 0.0
        self._due_s += overdue_s
        return late_s

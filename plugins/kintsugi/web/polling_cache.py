"""A cache of readings for all users of the page: each source is polled in the background at its own interval.

1. A source is polled only while somebody looks (the page asks every second).
2. A source gets one question at a time: a source that hangs is not asked again before it has answered.
3. A source has a deadline. After it the last answer stays visible, with its age and the reason. No source waits for
   another, so a source that fails affects only its own panel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from kintsugi.core.errors import KintsugiError

IDLE_AFTER_S = 15.0
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class CachedValue(Generic[Answer]):
    """The last answer of a source, and its time (UTC); ``error``: why it does not answer now."""

    value: Answer | None = None
    at: datetime | None = None
    error: str | None = None

    @property
    def asked(self) -> bool:
        """Whether the source has answered or failed at least once."""
        return self.at is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class PolledSource:
    """``ask`` is called every ``every_s`` seconds and has ``within_s`` seconds to answer."""

    ask: Callable[[], Awaitable[Any]]
    every_s: float
    within_s: float


class Hub:
    """The newest reading of every source, by name. Lives in one event loop."""

    def __init__(self, sources: Mapping[str, PolledSource], *, idle_after_s: float = IDLE_AFTER_S) -> None:
        self._sources = sources
        self._idle_after_s = idle_after_s
        self._readings: dict[str, CachedValue[Any]] = {name: CachedValue() for name in sources}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._looked_s = 0.0
        self._first = asyncio.Event()

    async def readings(self, *, patience_s: float = 0.0) -> dict[str, CachedValue[Any]]:
        """All readings as they are; waits up to ``patience_s`` seconds for sources that were never asked."""
        loop = asyncio.get_running_loop()
        self._looked_s = loop.time()
        for name in self._sources:
            if name not in self._tasks or self._tasks[name].done():
                # A reading from before the pause is too old: show nothing rather than an hour-old state.
                self._readings[name] = CachedValue()
                self._tasks[name] = loop.create_task(self._keep(name))
        until_s = loop.time() + patience_s
        while (left_s := until_s - loop.time()) > 0 and not all(r.asked for r in self._readings.values()):
            self._first.clear()
            try:
                await asyncio.wait_for(self._first.wait(), left_s)
            except TimeoutError:
                break
        return dict(self._readings)

    async def close(self) -> None:
        """Stop polling."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, name: str) -> None:
        source, clock = self._sources[name], asyncio.get_running_loop().time
        asking: asyncio.Future[Any] | None = None
        try:
            while clock() - self._looked_s < self._idle_after_s:
                started_s = clock()
                asking = asking or asyncio.ensure_future(source.ask())
                done, _ = await asyncio.wait({asking}, timeout=source.within_s)
                if done:
                    self._note(name, _read_answer(asking, self._readings[name]))
                    asking = None
                else:
                    reason = f"no answer within {source.within_s:.0f} s"
                    self._note(name, replace(self._readings[name], error=reason))
                await asyncio.sleep(max(0.0, started_s + source.every_s - clock()))
        finally:
            if asking is not None:
                asking.cancel()

    def _note(self, name: str, reading: CachedValue[Any]) -> None:
        self._readings[name] = reading
        self._first.set()


def _read_answer(asked: asyncio.Future[Any], before: CachedValue[Any]) -> CachedValue[Any]:
    error = asked.exception()
    if error is None:
        return CachedValue(asked.result(), datetime.now(UTC))
    # Our own errors are written for people; of a driver's error the type is shown as well.
    reason = str(error) if isinstance(error, KintsugiError) else f"{type(error).__name__}: {error}"
    return replace(before, error=reason.strip()[:300])

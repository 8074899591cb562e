"""The watcher's own standstill is measured."""

from __future__ import annotations

import asyncio
import time

from kintsugi.probes.event_loop_lag import LoopLag


async def test_a_blocked_loop_is_late_once() -> None:
    async with LoopLag() as lag:
        await asyncio.sleep(0.05)
        time.sleep(0.8)  # noqa: ASYNC251 - this is the standstill
        first = lag.take()
        await asyncio.sleep(0.3)
        second = lag.take()
    assert 0.5 <= first <= 0.9  # a standstill up to the timer's period of 0.2 s long may be missed
    assert second < 0.3


async def test_an_idle_loop_is_not_late() -> None:
    async with LoopLag() as lag:
        await asyncio.sleep(0.5)
        assert lag.take() < 0.4

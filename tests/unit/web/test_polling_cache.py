"""The hub: one source that hangs or fails costs its own reading and no other."""

from __future__ import annotations

import asyncio

from kintsugi.core.errors import KintsugiError
from kintsugi.web.polling_cache import Hub, PolledSource


async def test_a_hanging_source_delays_nobody_and_is_asked_once() -> None:
    asked = 0

    async def hang() -> None:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()

    async def answer() -> int:
        return 7

    hub = Hub({"hangs": PolledSource(hang, 0.01, 0.05), "well": PolledSource(answer, 0.01, 1.0)})
    readings = await hub.readings(patience_s=5.0)
    assert readings["well"].value == 7
    assert readings["hangs"].error == "no answer within 0 s"
    before = readings["well"].at
    async with asyncio.timeout(5):
        while (await hub.readings())["well"].at == before:  # noqa: ASYNC110 - the hub is what is waited for
            await asyncio.sleep(0.01)
    assert asked == 1
    await hub.close()


async def test_a_source_that_fails_keeps_its_last_answer_and_says_why() -> None:
    answers = iter([1])

    async def once() -> int:
        try:
            return next(answers)
        except StopIteration:
            raise KintsugiError("Cassandra does not answer") from None

    hub = Hub({"it": PolledSource(once, 0.01, 1.0)})
    reading = (await hub.readings(patience_s=5.0))["it"]
    async with asyncio.timeout(5):
        while reading.error is None:
            await asyncio.sleep(0.01)
            reading = (await hub.readings())["it"]
    assert (reading.value, reading.error) == (1, "Cassandra does not answer")
    await hub.close()


async def test_nobody_is_asked_while_nobody_looks_and_old_answers_are_not_shown_as_new() -> None:
    asked = 0

    async def count() -> int:
        nonlocal asked
        asked += 1
        return asked

    hub = Hub({"it": PolledSource(count, 0.01, 1.0)}, idle_after_s=0.05)
    await hub.readings(patience_s=5.0)
    async with asyncio.timeout(5):
        await asyncio.gather(*hub._tasks.values())  # they end by themselves
    before = asked
    reading = (await hub.readings())["it"]
    assert (reading.asked, asked) == (False, before)
    assert (await hub.readings(patience_s=5.0))["it"].value == before + 1
    await hub.close()

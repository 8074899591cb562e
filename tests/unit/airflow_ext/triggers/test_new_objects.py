from __future__ import annotations

from collections.abc import Callable

import pytest

from kintsugi.airflow_ext.triggers import new_objects
from kintsugi.airflow_ext.triggers.new_objects import NewObjectsTrigger


def test_it_can_be_made_again_from_what_it_serializes() -> None:
    path, kwargs = NewObjectsTrigger(kind="eod", interval=5.0).serialize()
    assert path == "kintsugi.airflow_ext.triggers.new_objects.NewObjectsTrigger"
    assert NewObjectsTrigger(**kwargs).serialize() == (path, kwargs)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trades.*eod"):
        NewObjectsTrigger(kind="trade")


async def test_it_looks_until_there_is_something_and_survives_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[list[str] | Exception] = [[], ConnectionError("S3 is away"), [], ["trades/f"]]

    made: list[str] = []

    def looks(kind: str) -> Callable[[], list[str]]:
        made.append(kind)

        def look() -> list[str]:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return look

    monkeypatch.setattr(new_objects, "make_scan", looks)
    events = [event async for event in NewObjectsTrigger(kind="trades", interval=0.001).run()]
    assert [event.payload for event in events] == [{"keys": ["trades/f"]}]
    assert answers == []
    assert made == ["trades", "trades"], (
        "an error may mean that its client has a key of S3 that is no longer valid"
    )

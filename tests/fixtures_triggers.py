"""The result of a sensor whose trigger ended in the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.utils.state import TaskInstanceState

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


async def finding(trigger: BaseTrigger) -> Any:
    """What its sensor is made to return; None when it is skipped. It ends by one event, and in no other way."""
    (event,) = [event async for event in trigger.run()]
    ends = {"state": event.task_instance_state, "xcoms": event.xcoms}  # type: ignore[attr-defined]
    if ends == {"state": TaskInstanceState.SKIPPED, "xcoms": None}:
        return None
    assert ends["state"] is TaskInstanceState.SUCCESS
    assert ends["xcoms"].keys() == {"return_value"}
    return ends["xcoms"]["return_value"]

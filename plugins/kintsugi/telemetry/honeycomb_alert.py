"""Parse the payload of Honeycomb's trigger webhook. Pure.

The payload (default template of a trigger, https://docs.honeycomb.io/notify/webhooks/) is JSON with ``status``
("TRIGGERED" or "OK"), ``name``, ``summary``, ``is_test`` in a test, and ``result_groups_triggered``, a list of
``{"Group": {column: value}, "Result": number}``; custom templates may give ``Group`` as ``[{"Key": …, "Value": …}]``.
A trigger that starts recoveries must group by ``kintsugi.node`` (or ``host.name``): the value is the node.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kintsugi.core.errors import InputError
from kintsugi.core.fleet import Fleet

COLUMNS = ("kintsugi.node", "host.name")
TRIGGERED = "TRIGGERED"


@dataclass(frozen=True, slots=True)
class Alert:
    """One delivery. ``nodes``: the nodes of the fleet that it names; ``unknown``: all other names."""

    name: str
    firing: bool
    test: bool
    summary: str
    nodes: tuple[str, ...]
    unknown: tuple[str, ...]


def parse_alert(body: bytes, fleet: Fleet) -> Alert:
    """Read a payload; raises InputError that says what is wrong with it."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise InputError(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InputError("the body is JSON that is nested too deeply") from error
    if not isinstance(document, dict):
        raise InputError("the body must be a JSON object, as in Honeycomb's default trigger template")
    status = document.get("status")
    if not isinstance(status, str):
        raise InputError("the body has no `status`; send the payload of a trigger, not of a burn alert")
    named = _list_named_nodes(document)
    return Alert(
        name=_clean_text(document.get("name"), 200) or "a trigger",
        firing=status.upper() == TRIGGERED,
        test=document.get("is_test") is True,
        summary=_clean_text(document.get("summary"), 500) or _clean_text(document.get("description"), 500),
        nodes=tuple(name for name in named if name in fleet.nodes),
        unknown=tuple(name for name in named if name not in fleet.nodes),
    )


def _list_named_nodes(document: Mapping[str, Any]) -> list[str]:
    """The values of the node's column in the groups over the threshold, each once, in their order."""
    groups = document.get("result_groups_triggered") or []
    if not isinstance(groups, list):
        raise InputError("`result_groups_triggered` must be a list")
    named: dict[str, None] = {}
    for entry in groups:
        group = _parse_columns(entry.get("Group") if isinstance(entry, Mapping) else None)
        for column in COLUMNS:
            value = group.get(column)
            if isinstance(value, str) and value:
                named[_clean_text(value, 100)] = None
                break
    return list(named)


def _clean_text(value: Any, length: int) -> str:
    """A text of the payload in one line, without what no database and no response can hold; empty for all else."""
    if not isinstance(value, str):
        return ""
    return "".join(letter if letter.isprintable() else " " for letter in value[:length])


def _parse_columns(group: Any) -> dict[str, Any]:
    if isinstance(group, Mapping):
        return dict(group)
    if isinstance(group, list):
        return {str(part.get("Key")): part.get("Value") for part in group if isinstance(part, Mapping)}
    return {}

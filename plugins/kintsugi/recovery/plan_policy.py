"""The policy for Terraform plans of a recovery: only this one node is replaced, and nothing else. Pure.

The rules, for the JSON of ``terraform show -json <saved plan>``
(https://developer.hashicorp.com/terraform/internals/json-format, format version 1.x):

1.  The plan is complete: known format, no error, nothing deferred to a later plan.
2.  Every resource that it would change is one of the allowed addresses.
3.  An allowed address may only be replaced, or created if it is missing. The old resource is deleted *before* the
    new one is created, because two nodes can't share one address. No update in place, no delete without create, no
    deletion of a deposed object.
4.  Nothing is moved, imported or forgotten, also not at an allowed address.
5.  At most two addresses change: one node and its volume.
6.  The new resource is made from the same input as the old one. For example, if the fleet file gives the node another
    address, a person applies that with `make up`. A recovery does not.

A targeted plan does not act on drift of other resources (``resource_drift``). Such drift does not block the
recovery; it is reported. Changes of outputs alone are harmless and are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kintsugi.core.errors import PlanRejected

BLAST_RADIUS = 2
"""Resources that one plan may change: a node and its volume."""

# The resource types of a node and a volume in the root module of each environment.
_RESOURCES = {
    "local": ("terraform_data", "terraform_data"),
    "docker": ("docker_container", "docker_volume"),
    "hosts": ("terraform_data", "terraform_data"),
}

_HARMLESS = (["no-op"], ["read"])
_WAYS = {("delete", "create"): "replaced", ("create",): "created"}


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a plan that passed would do, by address; and the drift of other resources that Terraform saw."""

    replaced: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    drift_elsewhere: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{verb} {', '.join(addresses)}"
            for verb, addresses in (("replaces", self.replaced), ("creates", self.created))
            if addresses
        ]
        drift = (
            f" (drift elsewhere, not touched: {', '.join(self.drift_elsewhere)})"
            if self.drift_elsewhere
            else ""
        )
        return f"The plan {' and '.join(parts) or 'changes nothing'}{drift}."


def node_addresses(environment: str, node: str, *, with_volume: bool) -> list[str]:
    """Return the Terraform addresses of a node, its volume first if the volume is replaced too."""
    of_node, of_volume = _RESOURCES[environment]
    volume = [f'module.volume["{node}"].{of_volume}.this'] if with_volume else []
    return [*volume, f'module.node["{node}"].{of_node}.this']


def planned_changes(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the actions of a plan by address, for changes only: ``{"module.node[…]…": ["delete", "create"]}``."""
    acts = {item["address"]: list(item["change"]["actions"]) for item in document.get("resource_changes", [])}
    return {address: actions for address, actions in acts.items() if actions not in _HARMLESS}


def check_plan(document: Mapping[str, Any], allowed: Collection[str]) -> PlanSummary:
    """Check the plan against the rules above; raises PlanRejected, which names the address at fault.

    ``document``: the parsed JSON. ``allowed``: the addresses that may be replaced (see ``addresses``).
    """
    _check_whole(document)
    changed_addresses: dict[str, list[str]] = {"replaced": [], "created": []}
    for change in document.get("resource_changes", []):
        way = _check_change(change, allowed)
        if way:
            changed_addresses[way].append(change["address"])
    for change in document.get("resource_changes", []):
        if change["address"] in changed_addresses["replaced"] and (
            altered := _altered_paths(change["change"])
        ):
            raise _plan_rejected(
                f"would create {change['address']} with a different {', a different '.join(altered)}"
            )
    changed = [*changed_addresses["replaced"], *changed_addresses["created"]]
    if len(changed) > BLAST_RADIUS:
        raise _plan_rejected(
            f"would change {len(changed)} resources ({', '.join(changed)}), but at most {BLAST_RADIUS} are allowed"
        )
    return PlanSummary(
        replaced=tuple(changed_addresses["replaced"]),
        created=tuple(changed_addresses["created"]),
        drift_elsewhere=tuple(
            drift["address"]
            for drift in document.get("resource_drift", [])
            if drift["address"] not in allowed
        ),
    )


def check_single_action(
    document: Mapping[str, Any], allowed: Collection[str], action: Sequence[str]
) -> list[str]:
    """Check that the plan does nothing but ``action``, and only at ``allowed``; returns the addresses, sorted.

    For a node that comes (``["create"]``) or goes (``["delete"]``). Rules 1, 2 and 4 hold as in a recovery. Raises
    PlanRejected, which names the address at fault.
    """
    _check_whole(document)
    changed = []
    for change in document.get("resource_changes", []):
        actions = _allowed_actions(change, allowed, whose="the node that is added or removed")
        if actions and actions != list(action):
            raise _plan_rejected(
                f"would {' and '.join(actions)} {change['address']}; only {' and '.join(action)} is allowed"
            )
        if actions:
            changed.append(str(change["address"]))
    return sorted(changed)


def _check_whole(document: Mapping[str, Any]) -> None:
    version = str(document.get("format_version", "missing"))
    if version.partition(".")[0] != "1":
        raise _plan_rejected(f"has format version {version}, but this policy can only read 1.x")
    if document.get("errored"):
        raise _plan_rejected("is incomplete, because planning ended with an error")
    if deferred := document.get("deferred_changes"):
        raise _plan_rejected(f"defers {len(deferred)} changes to a later plan")


def _check_change(change: Mapping[str, Any], allowed: Collection[str]) -> str | None:
    """Return ``replaced`` or ``created`` for an allowed change; None for one that changes nothing."""
    actions = _allowed_actions(change, allowed, whose="the node in recovery")
    if not actions:
        return None
    way = _WAYS.get(tuple(actions))
    if way is None:
        what = " and ".join(actions)
        raise _plan_rejected(
            f"would {what} {change['address']}; a recovery may only delete it and then create it"
        )
    return way


def _allowed_actions(change: Mapping[str, Any], allowed: Collection[str], *, whose: str) -> list[str]:
    """Return the actions at one of the ``allowed`` addresses; none for a change that changes nothing.

    ``whose``: what these addresses belong to, in words.
    """
    address, actions = change["address"], list(change["change"]["actions"])
    if "previous_address" in change:
        raise _plan_rejected(f"would move {change['previous_address']} to {address}")
    if change["change"].get("importing") is not None:
        raise _plan_rejected(f"would import {address}")
    if actions in _HARMLESS:
        return []
    what = " and ".join(actions)
    if address not in allowed:
        raise _plan_rejected(
            f"would {what} {address}, which is not part of {whose} ({', '.join(sorted(allowed))})"
        )
    if "deposed" in change:
        raise _plan_rejected(f"would {what} a deposed object of {address}; only a person may do that")
    return actions


def _altered_paths(change: Mapping[str, Any]) -> list[str]:
    """Return the paths at which the new resource differs from the old one: ``input.node.address``, ``image``."""
    before, after, unknown = (change.get(when) or {} for when in ("before", "after", "after_unknown"))
    return list(_differing_paths("", before, after, unknown))


def _differing_paths(path: str, before: Any, after: Any, unknown: Any) -> Iterator[str]:
    """Yield the paths at which two values differ. A value that is known only after apply is no difference."""
    if unknown is True:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        below = unknown if isinstance(unknown, Mapping) else {}
        for key in sorted(before.keys() | after.keys()):
            inner = f"{path}.{key}" if path else key
            yield from _differing_paths(inner, before.get(key), after.get(key), below.get(key))
    elif (
        isinstance(before, list)
        and isinstance(after, list)
        and len(before) == len(after)
        and _is_partly_unknown(unknown)
    ):
        parts = unknown if isinstance(unknown, list) else []
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from _differing_paths(
                f"{path}.{index}", *pair, parts[index] if index < len(parts) else None
            )
    elif _without_empty_parts(before) != _without_empty_parts(after):
        yield path


def _is_partly_unknown(unknown: Any) -> bool:
    """Whether a part of it is known only after apply."""
    parts = unknown.values() if isinstance(unknown, Mapping) else unknown if isinstance(unknown, list) else ()
    return unknown is True or any(_is_partly_unknown(part) for part in parts)


def _without_empty_parts(value: Any) -> Any:
    """Return a value without its empty parts: a provider reports zeros and empty lists for what is not configured.

    A list of blocks is a set, so it is sorted. A list of strings keeps its order.
    """
    if isinstance(value, Mapping):
        return {
            key: rest for key, part in value.items() if (rest := _without_empty_parts(part)) is not None
        } or None
    if isinstance(value, list):
        parts = [_without_empty_parts(part) for part in value]
        if all(isinstance(part, Mapping) for part in value):
            parts.sort(key=lambda part: json.dumps(part, sort_keys=True))
        return parts or None
    return value or None


def _plan_rejected(what: str) -> PlanRejected:
    return PlanRejected(f"the plan {what}. Nothing was applied. Look at `terraform plan`, then act by hand")

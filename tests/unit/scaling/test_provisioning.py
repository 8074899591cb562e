"""Terraform's plan for one node: it makes it, or destroys it, and touches nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from kintsugi.core.errors import PlanRejected
from kintsugi.recovery.plan_policy import check_single_action, node_addresses

ALLOWED = node_addresses("local", "kafka-4", with_volume=True)
OTHER = node_addresses("local", "kafka-3", with_volume=False)[0]


def plan(**changes: list[str]) -> dict[str, Any]:
    entries = [{"address": address, "change": {"actions": actions}} for address, actions in changes.items()]
    return {"format_version": "1.2", "resource_changes": entries}


@pytest.mark.parametrize("action", [["create"], ["delete"]])
def test_node_and_volume_are_changed_or_are_as_wanted_already(action: list[str]) -> None:
    volume, node = ALLOWED
    assert check_single_action(plan(**{volume: action, node: action}), ALLOWED, action) == sorted(ALLOWED)
    assert check_single_action(plan(**{volume: ["no-op"], node: action}), ALLOWED, action) == [node]
    assert check_single_action(plan(**{OTHER: ["no-op"]}), ALLOWED, action) == []


@pytest.mark.parametrize(
    "changes",
    [
        {OTHER: ["delete"]},
        {ALLOWED[1]: ["delete", "create"]},
        {ALLOWED[1]: ["delete"]},
        {ALLOWED[0]: ["update"]},
    ],
)
def test_every_other_change_is_refused(changes: dict[str, list[str]]) -> None:
    with pytest.raises(PlanRejected):
        check_single_action(plan(**changes), ALLOWED, ["create"])


@pytest.mark.parametrize(
    "odd",
    [
        {"previous_address": OTHER},
        {"deposed": "0123"},
        {"change": {"actions": ["create"], "importing": {"id": "x"}}},
    ],
)
def test_what_only_a_person_may_do_is_refused(odd: dict[str, Any]) -> None:
    document = plan(**{ALLOWED[1]: ["create"]})
    document["resource_changes"][0] |= odd
    with pytest.raises(PlanRejected):
        check_single_action(document, ALLOWED, ["create"])


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"format_version": "2.0"},
        {"format_version": "1.0", "errored": True},
        {"format_version": "1.0", "deferred_changes": [{}]},
    ],
)
def test_a_plan_that_cannot_be_judged_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(PlanRejected):
        check_single_action(document, ALLOWED, ["create"])

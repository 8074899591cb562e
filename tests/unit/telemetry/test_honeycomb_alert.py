from __future__ import annotations

import json
from typing import Any

import pytest

from kintsugi.core.errors import InputError
from kintsugi.core.fleet import load_fleet
from kintsugi.telemetry.honeycomb_alert import parse_alert

FLEET = load_fleet()


def payload(**changes: Any) -> dict[str, Any]:
    """A delivery as Honeycomb's documentation of trigger webhooks shows it."""
    return {
        "version": "v0.1.0",
        "id": "abdcefg",
        "name": "A node is down",
        "trigger_description": "",
        "trigger_url": "https://ui.honeycomb.io/team/datasets/kintsugi-metrics/triggers/abdcefg",
        "status": "TRIGGERED",
        "summary": "Triggered: A node is down",
        "description": "Currently less than threshold value (1) for kintsugi.node:kafka-2 (value 0)",
        "operator": "less than",
        "threshold": 1,
        "result_url": "https://ui.honeycomb.io/team/datasets/kintsugi-metrics/result/abc",
        "result_groups": [
            {"Group": {"kintsugi.node": "kafka-1"}, "Result": 1},
            {"Group": {"kintsugi.node": "kafka-2"}, "Result": 0},
        ],
        "result_groups_triggered": [{"Group": {"kintsugi.node": "kafka-2"}, "Result": 0}],
        **changes,
    }


def parse(**changes: Any) -> Any:
    return parse_alert(json.dumps(payload(**changes)).encode(), FLEET)


def test_only_the_groups_over_the_threshold_count() -> None:
    alert = parse()
    assert (alert.nodes, alert.unknown, alert.firing, alert.test) == (("kafka-2",), (), True, False)


def test_resolved_is_not_firing() -> None:
    assert not parse(status="OK").firing


@pytest.mark.parametrize(
    ("groups", "nodes", "unknown"),
    [
        ([{"Group": {"host.name": "kafka-3"}, "Result": 0}], ("kafka-3",), ()),
        ([{"Group": {"kintsugi.node": "kafka-2", "host.name": "x"}}], ("kafka-2",), ()),
        ([{"Group": [{"Key": "kintsugi.node", "Value": "kafka-2"}]}], ("kafka-2",), ()),
        (
            [{"Group": {"kintsugi.node": "kafka-9"}}, {"Group": {"host.name": "kafka-1"}}],
            ("kafka-1",),
            ("kafka-9",),
        ),
        ([{"Group": {"kintsugi.node": "kafka-2"}}] * 3, ("kafka-2",), ()),
        ([{"Group": {"kintsugi.node": None}}, {"Group": {"foo": "kafka-1"}}, {}, 7], (), ()),
        ([], (), ()),
        (None, (), ()),
    ],
)
def test_nodes_by_group(groups: Any, nodes: tuple[str, ...], unknown: tuple[str, ...]) -> None:
    alert = parse(result_groups_triggered=groups)
    assert (alert.nodes, alert.unknown) == (nodes, unknown)


def test_a_test_says_so() -> None:
    assert parse(is_test=True).test


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "JSON object"),
        (b"{}", "no `status`"),
        (b'{"status": "TRIGGERED", "result_groups_triggered": "x"}', "must be a list"),
    ],
)
def test_what_is_no_payload_is_named(body: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_alert(body, FLEET)

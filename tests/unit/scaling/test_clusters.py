"""What the clusters say of a node that comes or goes."""

from __future__ import annotations

from typing import Any

import pytest

from kintsugi.scaling.clusters import common_status, worker_gap

HERE = "127.20.2.4"


def row(status: str, address: str = HERE) -> dict[str, Any]:
    return {"address": address, "status_with_port": f"{status},-123"}


OTHER = row("NORMAL", "127.20.2.1")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[OTHER, row("NORMAL")], [row("NORMAL")]], "NORMAL"),
        ([[OTHER, row("LEAVING")], [row("LEAVING")]], "LEAVING"),
        ([[OTHER, row("LEFT")], [OTHER]], "LEFT"),
        ([[OTHER], [OTHER]], "LEFT"),
        ([[row("LEFT")], [row("LEAVING")]], None),
        ([[row("LEFT")], None], None),
        ([], None),
    ],
)
def test_a_node_has_left_the_ring_when_every_peer_says_so(answers: list[Any], expected: str | None) -> None:
    assert common_status(answers, HERE) == expected


def worker(host: str, state: str = "ALIVE") -> dict[str, str]:
    return {"host": host, "state": state}


@pytest.mark.parametrize(
    ("workers", "waits"),
    [
        ([worker("a"), worker("b")], False),
        ([worker("a"), worker("b"), worker("gone", "DEAD")], False),
        ([worker("a"), worker("b"), worker("gone")], True),
        ([worker("a"), worker("b", "DEAD")], True),
    ],
)
def test_a_worker_is_released_when_the_others_are_alive_without_it(
    workers: list[dict[str, str]], waits: bool
) -> None:
    assert bool(worker_gap({"workers": workers}, "gone", ["a", "b"])) is waits

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.local.status import gather, show
from tests.installations import installation

if TYPE_CHECKING:
    import pytest


def test_all_down_is_told_quickly_and_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = installation(tmp_path, "127.34")
    start = time.monotonic()
    document = gather(settings)
    assert time.monotonic() - start < 15, "a status must not wait for what is down"
    assert json.loads(json.dumps(document)) == document
    assert document["well"] is False
    assert document["lag"] is None
    assert {node["name"] for node in document["nodes"]} == set(settings.fleet.nodes)
    assert {node["service"] for node in document["nodes"]} == {"refused"}
    assert {part["state"] for part in document["control_plane"].values()} == {"DOWN"}
    show(document)
    printed = capsys.readouterr().out
    assert "cassandra-2" in printed
    assert "not all is well" in printed

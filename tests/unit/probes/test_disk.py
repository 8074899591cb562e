from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kintsugi.core.observation import Headroom
from kintsugi.probes.disk import GIB, parse_df, shortage_of_room


def test_df_of_this_machine_is_understood(tmp_path: Path) -> None:
    said = subprocess.run(
        ["df", "-P", "-B1", str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    found = parse_df(said)
    assert found is not None
    assert 0 < found.free <= found.size


@pytest.mark.parametrize(
    "said", ["", "df: /x: No such file", "Filesystem 1-blocks Used Available Capacity Mounted on"]
)
def test_anything_else_is_no_answer(said: str) -> None:
    assert parse_df(said) is None


@pytest.mark.parametrize(
    ("free", "size", "full"),
    [
        (9, 100, True), (10, 100, False), (19, 1000, True), (20, 1000, False), (0.9, 2, True), (1, 2, False),
        (0, 100, True),
    ],
)  # fmt: skip
def test_a_volume_is_reported_before_it_is_full(free: float, size: float, full: bool) -> None:
    sentence = shortage_of_room(Headroom(free=int(free * GIB), size=int(size * GIB)))
    assert (sentence is not None) == full
    if sentence:
        assert f"{free:.1f} of {size:.1f} GiB free" in sentence

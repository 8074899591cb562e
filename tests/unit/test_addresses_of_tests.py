"""The files of tests/integration run side by side, so no two may use the same addresses."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

INTEGRATION = Path(__file__).parents[1] / "integration"
_LITERAL = re.compile(r"\b127\.\d+(?:\.\d+){0,2}")
_EVERYBODYS = "127.0.0.1"


def blocks_in(text: str) -> set[tuple[str, ...]]:
    """The blocks of addresses that a file names: ``127.33`` as ("127", "33")."""
    return {tuple(found.split(".")) for found in _LITERAL.findall(text) if found != _EVERYBODYS}


def overlaps(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("127.33", "127.33.1.2", True),
        ("127.31.90", "127.31.90", True),
        ("127.31.90", "127.31.91", False),
        ("127.3", "127.33", False),
    ],
)
def test_blocks_overlap_when_one_holds_the_other(first: str, second: str, expected: bool) -> None:
    ((one,), (other,)) = blocks_in(first), blocks_in(second)
    assert overlaps(one, other) is expected


def test_no_two_files_use_the_same_addresses() -> None:
    # What shares a directory with a conftest.py shares its servers, which have ports of their own.
    files = {path: blocks_in(path.read_text()) for path in INTEGRATION.rglob("*.py")}
    shared = [
        f"{one.relative_to(INTEGRATION)} and {other.relative_to(INTEGRATION)}: {'.'.join(block)}"
        for (one, blocks), (other, others) in combinations(files.items(), 2)
        if not (one.parent == other.parent != INTEGRATION)
        for block in blocks
        if any(overlaps(block, theirs) for theirs in others)
    ]
    assert not shared

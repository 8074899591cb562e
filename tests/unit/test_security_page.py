"""Each claim of docs/security.md names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/security.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def claims() -> list[str]:
    """The rows of the tables that have a column ``test``."""
    rows, counts = [], False
    for line in PAGE.read_text().splitlines():
        counts = (line.startswith("| claim") and line.endswith("| test |")) or (
            counts and line.startswith("|")
        )
        if counts and not line.startswith(("| claim", "|---")):
            rows.append(line)
    return rows


def test_each_claim_names_a_test_that_exists() -> None:
    assert len(claims()) > 20
    for row in claims():
        named = NAMED.findall(row)
        assert named, f"no test is named in: {row}"
        for path, name in named:
            tree = ast.parse((REPOSITORY / path).read_text())
            functions = {
                node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert name in functions, f"{path} has no {name}"

"""The floor plan in numbers: `make lint` runs ``python -m tests.rooms``, which fails where one of these doesn't hold.

1. Cycles among rooms (the packages of `docs/architecture.md`), imports inside functions included. None is allowed.
2. Imports of our own modules inside functions: at most ``LAZY_AT_MOST``, each with a comment that says why.
3. A public class name stands for one thing: none is defined in two modules.

The layers themselves are import-linter's (``[tool.importlinter]`` in `pyproject.toml`).
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOTS = ("plugins/kintsugi", "benchmarks")
DIVIDED = ("kintsugi.pipeline",)  # a package whose packages are rooms of their own
LAZY_AT_MOST = 60


@dataclass(frozen=True, slots=True)
class Import:
    """One import of a module of ours. ``inside``: in a function. ``reason``: whether a comment stands at it."""

    module: str
    imported: str
    inside: bool
    reason: bool
    line: int


def modules(roots: Iterable[str] = ROOTS) -> dict[str, Path]:
    """All our modules by dotted name."""
    found = {}
    for root in map(Path, roots):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: Mapping[str, Path]) -> Iterator[Import]:
    """Every import of one of our modules by another; those for the type checker alone are left out."""
    for module, path in known.items():
        source = path.read_text()
        lines = source.splitlines()
        for node, inside in _import_nodes(ast.parse(source), inside=False):
            text = "".join(lines[node.lineno - 1 : node.end_lineno])
            for imported in sorted(set(_targets(node, known))):
                yield Import(module, imported, inside, "#" in text, node.lineno)


def _import_nodes(tree: ast.AST, *, inside: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, inside
        elif not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            deeper = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _import_nodes(node, inside=inside or deeper)


def _targets(node: ast.Import | ast.ImportFrom, known: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
        return
    for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        if whole in known:
            yield whole
        elif node.module is not None and node.module in known:
            yield node.module


def room_of(module: str) -> str:
    """The room that a module is in; a module beside the rooms is one by itself."""
    parts = module.split(".")
    if len(parts) > 2 and ".".join(parts[:2]) in DIVIDED:
        return ".".join(parts[1:3]) if len(parts) > 3 else parts[1]
    return parts[1] if parts[0] == "kintsugi" and len(parts) > 1 else parts[0]


def cycles(found: Iterable[Import]) -> list[set[str]]:
    """Sets of rooms that import each other, directly or by way of others."""
    edges: dict[str, set[str]] = defaultdict(set)
    for one in found:
        source, target = room_of(one.module), room_of(one.imported)
        if source != target and target != "kintsugi":
            edges[source].add(target)
    reached = {room: _reachable(room, edges) for room in edges}
    knots = {
        frozenset(other for other in beyond if room in reached.get(other, ()))
        for room, beyond in reached.items()
        if room in beyond
    }
    return sorted(map(set, knots), key=len, reverse=True)


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = set(edges.get(start, ()))
    while waiting:
        room = waiting.pop()
        found.add(room)
        waiting |= edges.get(room, set()) - found
    return found


def class_names(known: Mapping[str, Path]) -> dict[str, list[str]]:
    """Public classes that are defined in more than one module, with those modules."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in sorted(known.items()):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    return {name: places for name, places in sorted(found.items()) if len(places) > 1}


def sizes(known: Mapping[str, Path]) -> dict[str, int]:
    """Lines of each room."""
    found: dict[str, int] = defaultdict(int)
    for module, path in known.items():
        found[room_of(module)] += path.read_text().count("\n")
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def main() -> int:
    known = modules()
    found = list(imports(known))
    for room, lines in sizes(known).items():
        print(f"{lines:7,} lines  {room}")
    twice = class_names(known)
    for name, places in twice.items():
        print(f"class {name} is defined in {', '.join(places)}")
    lazy = [one for one in found if one.inside]
    statements = {(one.module, one.line): one for one in lazy}
    bare = [one for one in statements.values() if not one.reason]
    for one in bare:
        print(f"{known[one.module]}:{one.line}: import of {one.imported} inside a function, and no reason")
    knots = cycles(found)
    for knot in knots:
        print(f"cycle: {', '.join(sorted(knot))}")
    print(
        f"{len(knots)} cycles among rooms, {len(statements)} imports of our own inside functions "
        f"(at most {LAZY_AT_MOST}), {len(twice)} public class names more than once"
    )
    return 1 if knots or bare or twice or len(statements) > LAZY_AT_MOST else 0


if __name__ == "__main__":
    sys.exit(main())

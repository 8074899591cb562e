"""Choose the next victim. Pure; a logged seed makes every choice repeatable.

Each candidate gets a number from the hash of seed and name, and the smallest number wins (rendezvous hashing). The
choice does not depend on the order of the fleet file or on Python's version. Removing one candidate does not change
the choice among the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import sha256

from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Node


def pick_victims(seed: int, nodes: Iterable[Node], recent: Collection[str] = ()) -> Node:
    """The node that ``seed`` picks, if possible not one whose name is in ``recent``.

    When all were hit recently, all are candidates again. Raises GuardRefused when there is no node.
    """
    ranked = shuffle_nodes(seed, nodes)
    if not ranked:
        raise GuardRefused("there is no node that chaos may break; check the filter and the protected nodes")
    return next((node for node in ranked if node.name not in recent), ranked[0])


def shuffle_nodes(seed: int, nodes: Iterable[Node]) -> list[Node]:
    """All nodes, shuffled by ``seed``: the order of a round that breaks each node once."""
    return sorted(nodes, key=lambda node: (_rank_of(seed, node.name), node.name))


def seed_of(text: str) -> int:
    """A seed from any text, such as a run's name: 63 bits, the same on every machine."""
    return int.from_bytes(sha256(text.encode()).digest()[:8]) >> 1


def _rank_of(seed: int, name: str) -> bytes:
    return sha256(f"{seed}/{name}".encode()).digest()

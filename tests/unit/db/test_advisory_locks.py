"""Two users of one lock would wait for each other without a reason: the outbox and the flow samples once did."""

from __future__ import annotations

import re
from pathlib import Path

from kintsugi.db import advisory_locks

ROOM = Path(advisory_locks.__file__).parent


def numbers() -> dict[str, int]:
    return {name: value for name, value in vars(advisory_locks).items() if name.isupper()}


def test_every_lock_has_a_number_of_its_own() -> None:
    assert len(numbers()) == 4
    assert len(set(numbers().values())) == len(numbers())


def test_no_module_takes_a_lock_by_a_number_of_its_own() -> None:
    for module in ROOM.glob("*.py"):
        if module.name != "advisory_locks.py":
            assert not re.search(r"\b0x[0-9A-Fa-f]{6,}", module.read_text()), module.name

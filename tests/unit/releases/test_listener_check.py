"""When a starting broker counts as one with a wrong listener."""

from __future__ import annotations

import pytest

from kintsugi.releases.listener_check import UnheardListeners

# (listed by its peers, its port refuses), a look a second
WELL, FENCED, STARTING, WRONG, NOBODY = (
    (True, False),
    (False, True),
    (False, False),
    (True, True),
    (None, True),
)


def told_at(looks: list[tuple[bool | None, bool]]) -> int | None:
    """The second of the look that was certain; None when none was."""
    memory = UnheardListeners("kafka-1")
    for second, (listed, refused) in enumerate(looks):
        if memory.observe(listed=listed, refused=refused, now=float(second)):
            return second
    return None


@pytest.mark.parametrize(
    ("looks", "at"),
    [
        ([WELL, FENCED, FENCED, STARTING, WELL, WELL], None),  # a normal restart
        ([WELL, FENCED, FENCED, WRONG, WRONG, WRONG, WRONG], 5),
        ([WELL, FENCED, WRONG, WRONG, WELL], None),  # the look at the port came first, and its answer late
        ([WELL] + [WRONG] * 10 + [FENCED] * 3 + [WELL], None),  # killed: listed until its session ends
        ([WELL] + [WRONG] * 14, 13),  # longer than any session
        ([WELL, FENCED, NOBODY, NOBODY, NOBODY, NOBODY], None),  # the peers are silent: they prove nothing
    ],
)
def test_when_it_is_certain(looks: list[tuple[bool | None, bool]], at: int | None) -> None:
    assert told_at(looks) == at

"""When a starting broker counts as one with a wrong listener."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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


def told_at(looks: Sequence[tuple[bool | None, bool]], started_at: int = 0) -> int | None:
    """The second of the look that was certain; None when none was. ``started_at``: when its log said so."""
    memory = UnheardListeners("kafka-1")
    for second, (listed, refused) in enumerate(looks):
        has_started = partial(bool, second >= started_at)
        if memory.observe(listed=listed, refused=refused, now=float(second), has_started=has_started):
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


@pytest.mark.parametrize(("started_at", "at"), [(0, 4), (3, 4), (6, 6), (99, 14)])
def test_a_broker_that_is_unfenced_before_its_ports_are_open_gets_its_time(started_at: int, at: int) -> None:
    """On an overloaded machine more than two seconds lay between the two, and a good release was rolled back."""
    assert told_at([WELL, FENCED] + [WRONG] * 16, started_at) == at


def test_a_late_port_is_no_wrong_listener() -> None:
    assert told_at([WELL, FENCED] + [WRONG] * 6 + [WELL], started_at=99) is None


def test_the_log_is_asked_only_when_all_else_speaks_for_it() -> None:
    memory, asked = UnheardListeners("kafka-1"), []

    def ask() -> bool:
        asked.append(True)
        return True

    for second, (listed, refused) in enumerate([WELL, FENCED, STARTING, WELL, *[WRONG] * 2]):
        memory.observe(listed=listed, refused=refused, now=float(second), has_started=ask)
    assert asked == []

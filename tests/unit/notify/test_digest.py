from __future__ import annotations

from dataclasses import replace

from kintsugi.notify.digest import format_digest
from tests.fixtures_incidents import at, healed, refused


def test_it_tells_each_incident_of_the_day_in_a_line() -> None:
    manual = replace(healed("kafka-3", later=9000), t0=None)
    title, text = format_digest([manual, refused(later=4000), healed()], [], at(0), at(86400))
    assert "2 healed, 1 refused" in title
    lines = text.splitlines()
    assert all(fact in lines[0] for fact in ("2026-08-01 02:15", "2026-08-02 02:15", "2 healed, 1 refused"))
    facts = ("02:15", "kafka-2", "healed", "40 s", "3.0 s", "injected", "kafka-2 leads")
    assert all(fact in lines[2] for fact in facts)
    assert all(fact in lines[3] for fact in ("03:21", "kafka-2", "refused"))
    assert "kafka-3" in lines[4]
    assert "injected" not in lines[4]


def test_a_quiet_day_is_told_too() -> None:
    title, text = format_digest([healed()], [], at(100), at(86400))
    assert "healed" not in title
    assert len(text.splitlines()) == 1


def test_what_did_not_get_out_is_not_kept_silent() -> None:
    _, text = format_digest([], [("page/refused/x/0", "nobody answers"), ("trace/y", None)], at(0), at(86400))
    heading, refused, untried = text.splitlines()[-3:]
    assert heading.startswith("2 ")
    assert all(fact in refused for fact in ("page/refused/x/0", "nobody answers"))
    assert "trace/y" in untried
    assert "None" not in untried


def test_a_replacement_on_purpose_is_named_as_such() -> None:
    planned = replace(healed("kafka-3", later=100), t0=None, holder="replace_node/manual__1")
    lines = format_digest([planned, healed()], [], at(0), at(86400))[1].splitlines()
    assert ["on purpose" in line for line in lines[2:]] == [False, True]

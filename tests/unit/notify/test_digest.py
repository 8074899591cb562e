from __future__ import annotations

from dataclasses import replace

from kintsugi.notify.digest import digest
from tests.fixtures_incidents import at, healed, refused


def test_it_tells_each_incident_of_the_day_in_a_line() -> None:
    manual = replace(healed("kafka-3", later=9000), t0=None)
    title, text = digest([manual, refused(later=4000), healed()], [], at(0), at(86400))
    assert title == "Kintsugi: 2 healed, 1 refused"
    lines = text.splitlines()
    assert lines[0] == "2026-08-01 02:15 to 2026-08-02 02:15 UTC: 2 healed, 1 refused."
    assert lines[2].startswith(
        "- 02:15 kafka-2: healed in 40 s (detected after 3.0 s), injected fault; kafka-2 leads"
    )
    assert lines[3].startswith("- 03:21 kafka-2: refused")
    assert "injected fault" not in lines[4]


def test_a_quiet_day_is_told_too() -> None:
    title, text = digest([healed()], [], at(100), at(86400))
    assert title == "Kintsugi: no incident"
    assert len(text.splitlines()) == 1


def test_what_did_not_get_out_is_not_kept_silent() -> None:
    _, text = digest([], [("page/refused/x/0", "nobody answers"), ("trace/y", None)], at(0), at(86400))
    assert (
        "2 messages were not delivered:\n- page/refused/x/0: nobody answers\n- trace/y: not tried yet" in text
    )

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kintsugi.core.incident import Outcome
from kintsugi.telemetry.incident_trace import incident_trace
from kintsugi.telemetry.trace import Span, span_id, trace_id
from tests.fixtures_incidents import REBUILD, at, entry, healed


def _by_name(root: Span) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for child in root.children:
        found.setdefault(child.name, []).append(child)
    return found


def test_the_root_lasts_from_the_failure_to_the_closing() -> None:
    root = incident_trace(healed())
    assert (root.name, root.start, root.end) == ("incident", at(0), at(51.2))
    assert root.error is None
    assert root.attributes["kintsugi.repair_s"] == 40.0
    assert root.attributes["kintsugi.incident.last_action"] == "rebuild"


def test_without_an_injector_the_first_failed_probe_is_the_start() -> None:
    assert incident_trace(replace(healed(), t0=None)).start == at(1)


def test_phases_have_their_true_times() -> None:
    spans = _by_name(incident_trace(healed()))
    times = {name: [(span.start, span.end) for span in found] for name, found in spans.items()}
    assert times == {
        "detect": [(at(0), at(3))],
        "confirm": [(at(3), at(7))],
        "archive": [(at(6.5), at(8))],
        "provision": [(at(7), at(14))],
        "configure": [(at(14), at(24))],
        "rejoin": [(at(24), at(40))],
        "repair": [(at(40), at(44))],
        "verify": [(at(44), at(50))],
        "record": [(at(50), at(51))],
    }


def test_the_spans_of_a_phase_add_up_to_what_the_incident_reports() -> None:
    again = tuple(replace(line, at=line.at + timedelta(seconds=50)) for line in REBUILD)
    incident = replace(healed(), entries=(*REBUILD, *again), closed_at=at(102))
    root = incident_trace(incident)
    spent = {
        name: round(sum((span.end - span.start).total_seconds() for span in spans), 3)
        for name, spans in _by_name(root).items()
    }
    assert {phase.value: seconds for phase, seconds in incident.phases().items()}.items() <= spent.items()
    assert len(_by_name(root)["provision"]) == 2


def test_what_a_step_says_is_an_event_of_its_span() -> None:
    confirm = _by_name(incident_trace(healed()))["confirm"][0]
    said = [(moment.at, moment.name, moment.attributes["kintsugi.message"]) for moment in confirm.moments]
    assert (at(5.0), "confirm", "the host is lost") in said
    assert (at(6.5), "attempt", "rebuild") in said
    assert confirm.moments[1].attributes["kintsugi.verdict"] == "host_lost"


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REFUSED])
def test_an_incident_that_did_not_heal_is_an_error_with_its_reason(outcome: Outcome) -> None:
    root = incident_trace(replace(healed(), outcome=outcome, reason="configure failed: no route"))
    assert root.error == "configure failed: no route"
    assert root.attributes["error.type"] == outcome.value


def test_a_step_that_failed_marks_its_span_only() -> None:
    lines = (*REBUILD[:9], entry(20, "configure", "failed: no route", mark="failed"), entry(21, "record"))
    spans = _by_name(incident_trace(replace(healed(), entries=lines, closed_at=at(21))))
    assert spans["configure"][0].error == "configure failed: no route"
    assert spans["provision"][0].error is None


def test_nothing_ends_after_the_incident_or_before_its_own_start() -> None:
    late = (*REBUILD, entry(52, "record", mark="end"))
    root = incident_trace(replace(healed(), entries=late))
    assert all(span.start <= span.end <= root.end for span in root.walk())


def test_ids_depend_on_names_alone_and_are_all_different() -> None:
    root, again = incident_trace(healed()), incident_trace(healed())
    keys = [span.key for span in root.walk()]
    assert keys == [span.key for span in again.walk()]
    assert len({span_id(root.key, key) for key in keys}) == len(keys)
    assert trace_id(root.key) != trace_id(incident_trace(healed(later=60)).key)
    assert 0 < trace_id(root.key) < 2**128


def test_a_replacement_on_purpose_is_not_counted_as_an_incident() -> None:
    planned = replace(healed(), holder="replace_node/manual__1")
    assert incident_trace(planned).name != incident_trace(healed()).name

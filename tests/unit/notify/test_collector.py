from __future__ import annotations

from dataclasses import replace

from kintsugi.db.flags import RecordedFault
from kintsugi.db.outbox import MessageKind
from kintsugi.notify.collector import marker_items, page_items, trace_items
from tests.fixtures_incidents import at, healed, refused
from tests.unit.telemetry.test_ingest_trace import FILE

FAULT = RecordedFault("kafka-2", "volume_lost", "reset", "chaos/1", at(0))


def test_a_closed_incident_is_a_trace_and_an_open_one_is_none() -> None:
    (item,) = trace_items([healed(), refused(later=60, is_open=True)], [], at(100))
    assert (item.kind, item.body) == (MessageKind.INCIDENT_TRACE, {"incident": healed().id})


def test_a_finished_file_is_a_trace() -> None:
    (item,) = trace_items([], [FILE, replace(FILE, etag="x", finished_at=None)], at(100))
    assert (item.kind, item.body) == (MessageKind.INGEST_TRACE, {"key": FILE.key, "etag": FILE.etag})


def test_yesterdays_are_not_sent_to_a_backend_that_was_defined_today() -> None:
    assert trace_items([healed()], [FILE], at(2 * 86400)) == []
    assert marker_items([healed()], [FAULT], at(2 * 86400)) == []


def test_an_incident_has_a_marker_at_its_begin_and_one_at_its_end() -> None:
    begin = marker_items([replace(healed(), closed_at=None, outcome=None)], [], at(10))
    assert [item.key.rpartition("/")[2] for item in begin] == ["begin"]
    both = marker_items([healed()], [], at(60))
    assert [item.key.rpartition("/")[2] for item in both] == ["begin", "end"]
    assert both[0].key == begin[0].key, "the begin is told once"
    assert both[1].body["begin_key"] == begin[0].key
    assert both[1].body["end"] == at(51.2).isoformat()


def test_chaos_ends_with_the_incident_that_it_made() -> None:
    of_chaos = [item for item in marker_items([], [FAULT], at(10)) if "/chaos/" in item.key]
    assert [item.key.rpartition("/")[2] for item in of_chaos] == ["begin"]
    after = [item for item in marker_items([healed()], [FAULT], at(60)) if "/chaos/" in item.key]
    assert [item.key.rpartition("/")[2] for item in after] == ["begin", "end"]
    assert after[1].body["type"] == "kintsugi-chaos"


def test_a_page_is_an_item_with_its_key() -> None:
    (item,) = page_items([refused()], at(1900))
    assert (item.kind, set(item.body)) == (MessageKind.PAGE, {"title", "text"})

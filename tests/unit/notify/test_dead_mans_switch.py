from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import watch_dag_id
from kintsugi.notify.dead_mans_switch import DeadMansSwitch, Watching, find_silences, send_ping
from tests.fixtures_incidents import at
from tests.receivers import http_receiver

WELL = Watching(now=at(100), beats={"kafka-1": at(95), "kafka-2": at(92), "flow": at(99)})


def names(watching: Watching) -> list[str]:
    return [silence.name for silence in find_silences(watching)]


def test_nobody_is_missed_while_heartbeats_come() -> None:
    assert names(WELL) == []
    assert names(replace(WELL, now=at(182))) == []


def test_a_heartbeat_that_stops_is_missed_after_90_s() -> None:
    assert names(replace(WELL, now=at(183))) == ["kafka-2"]


def test_a_triggerer_that_is_stuck_is_missed_by_all_its_watches() -> None:
    found = find_silences(replace(WELL, now=at(400)))
    assert [silence.name for silence in found] == ["flow", "kafka-1", "kafka-2"]
    assert all("triggerer" in silence.why and watch_dag_id(silence.name) in silence.why for silence in found)


def test_a_node_under_repair_or_in_maintenance_is_not_missed() -> None:
    assert names(replace(WELL, now=at(183), excused={"kafka-2"})) == []


def test_a_paused_watch_is_none_although_its_trigger_lives_on() -> None:
    (found,) = find_silences(replace(WELL, paused={"kafka-1"}))
    assert found.name == "kafka-1"
    assert "watch_kafka-1" in found.why
    assert "triggerer" not in found.why, "the trigger lives"
    assert names(replace(WELL, paused={"kafka-1"}, excused={"kafka-1"})) == []


def test_what_was_never_watched_is_not_missed() -> None:
    assert names(Watching(now=at(10_000), beats={})) == []


def test_airflow_is_missed_when_a_component_stays_unhealthy() -> None:
    assert names(replace(WELL, unhealthy={"scheduler": at(-79)})) == []
    assert names(replace(WELL, unhealthy={"scheduler": at(-80)})) == ["Airflow's scheduler"]


def test_the_switch_calls_once_what_is_missing_has_settled() -> None:
    switch, found = DeadMansSwitch(), find_silences(replace(WELL, now=at(400)))
    assert switch.observe(found[:1], at(400)) is None
    assert switch.observe(found, at(415)) is None
    page = switch.observe(found, at(430))
    assert page is not None
    assert page.key.startswith("page/unwatched/flow,kafka-1,kafka-2/")
    assert "flow, kafka-1, kafka-2" in page.title
    again = switch.observe(found, at(445))
    assert again is not None
    assert again.key == page.key, "the same silence is the same call"
    later = switch.observe(found, at(7 * 3600))
    assert later is not None
    assert later.key != page.key, "and is repeated after hours"


def test_a_switch_that_was_started_again_makes_the_same_call() -> None:
    found, keys = find_silences(replace(WELL, now=at(400))), set()
    for switch in (DeadMansSwitch(), DeadMansSwitch()):
        for _ in range(2):
            page = switch.observe(found, at(430))
        assert page is not None
        keys.add(page.key)
    assert len(keys) == 1


def test_without_a_connection_no_ping_is_sent() -> None:
    assert send_ping(True) is False


@pytest.mark.parametrize(
    ("well", "path", "body"),
    [
        (True, "/c0ffee", b"kafka-2: no heartbeat"),
        (False, "/c0ffee/fail", b"kafka-2: no heartbeat\nRunbook: docs/runbooks/heartbeat-lost.md"),
    ],
)
def test_the_ping_goes_where_the_connection_says(
    well: bool, path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_receiver() as outside:
        defined = {"conn_type": "http", "host": f"{outside.url}/c0ffee"}
        monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_HEARTBEAT", json.dumps(defined))
        assert send_ping(well, "kafka-2: no heartbeat") is True
    (request,) = outside.requests
    assert (request.path, request.body) == (path, body)


def test_a_ping_that_fails_does_not_give_the_url_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_receiver() as outside:
        url = f"{outside.url}/c0ffee"
        monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_HEARTBEAT", json.dumps({"host": url}))
        outside.answer = lambda request: (404, b"")
        with pytest.raises(KintsugiError, match="404") as refused:
            send_ping(True)
    with pytest.raises(KintsugiError, match="can't be reached") as away:
        send_ping(True)
    assert "c0ffee" not in str(refused.value) + str(away.value)
    assert away.value.__suppress_context__, "a stack trace would show httpx's error, which names the URL"

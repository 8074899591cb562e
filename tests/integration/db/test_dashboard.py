"""The light queries of the page: same facts as the whole incidents, in a bounded number of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.db.dashboard import Listing
from kintsugi.db.flow_samples import KEPT, FlowSample, FlowSamples
from kintsugi.db.store import Store
from tests.factories import begin_repair, incidents


def test_a_page_has_the_phases_of_the_whole_incidents(store: Store) -> None:
    incidents(store, 40)
    light = Listing(store._dsn).list_incidents(limit=10)
    whole = store.read_incidents(10)
    assert [i.id for i in light] == [i.id for i in whole]
    assert [i.phases() for i in light] == [i.phases() for i in whole]
    assert all(not entry.message for incident in light for entry in incident.entries)


def test_pages_follow_each_other_also_when_an_incident_is_opened_between(store: Store) -> None:
    incidents(store, 30)
    listing = Listing(store._dsn)
    first = listing.list_incidents(limit=10)
    begin_repair(store, "kafka-1")
    second = listing.list_incidents(limit=10, before=(first[-1].opened_at, first[-1].id))
    assert not {i.id for i in first} & {i.id for i in second}
    assert [i.id for i in listing.list_incidents(limit=5, outcome="open")] == [store.read_incidents(1)[0].id]
    assert {i.node for i in listing.list_incidents(limit=99, node="kafka-2")} <= {"kafka-2"}


def test_a_glance_tells_what_is_open_and_what_chaos_did(store: Store) -> None:
    incidents(store, 12)
    identity = begin_repair(store, "cassandra-1", steps=3)
    store.set_maintenance("kafka-1", reason="disk", user="olga", until=datetime.now(UTC) + timedelta(hours=1))
    store.set_maintenance("kafka-2", reason="old", user="olga", until=datetime.now(UTC) - timedelta(hours=1))
    store.set_maintenance("kafka-3", reason="it is replaced", user="replace_node/of-a-run-that-is-gone")
    summary = Listing(store._dsn).read_summary()
    assert [incident.id for incident in summary.open] == [identity]
    assert summary.open[0].entries[-1].message
    assert summary.incidents == 13
    assert len(summary.recent) == 8
    assert [flag.scope for flag in summary.maintenance] == ["kafka-1"]
    assert {fault.incident is None for fault in summary.faults} == {False}
    assert summary.newest["cassandra-1"].id == identity


def test_samples_are_thinned_and_bounded(store: Store) -> None:
    samples, now = FlowSamples(store._dsn), datetime.now(UTC)
    for number in range(300):
        samples.add(FlowSample(now - timedelta(seconds=1500 - 5 * number), True, number, number + 1))
    found = samples.since(now - timedelta(seconds=1600), at_most=30)
    assert 25 <= len(found) <= 32
    assert found[-1].committed == 299
    assert [sample.at for sample in found] == sorted(sample.at for sample in found)
    samples.add(FlowSample(now + KEPT - timedelta(seconds=60), None, None, None))
    assert len(samples.since(now - timedelta(days=9), at_most=10_000)) < 40

"""The part ``rival`` as a whole, with a stream, a rival and a Cassandra that are made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.throughput.drain import Drained
from benchmarks.throughput.rival import measure, tuning
from benchmarks.throughput.rival.tuning import RivalBatch
from benchmarks.throughput.stored import Expected, Found
from kintsugi.core.errors import StepFailed

DRAINED = Drained(6_000.4, 90_000, 120_000, '{"trades": {"0": 5}}', Expected())


class MadeUpRival:
    """Stores 1,000 rows a second, 2,000 with 64 KiB batches."""

    def __init__(self) -> None:
        self.drains: list[dict[str, Any]] = []

    def drain_topic(self, drain: dict[str, Any]) -> list[RivalBatch]:
        json.dumps(drain)  # it goes through a pipe
        self.drains.append(drain)
        fast = drain["options"]["spark.cassandra.output.batch.size.bytes"] == "65536"
        return [RivalBatch(0.0, 1_000), RivalBatch(0.5 if fast else 1.0, 1_000)]


class MadeUpSession:
    def __init__(self) -> None:
        self.executed: list[str] = []
        agree = SimpleNamespace(wait_for_schema_agreement=lambda wait_time: True)
        self.cluster = SimpleNamespace(control_connection=agree)

    def execute(self, text: str, arguments: Any = None, timeout: float = 10.0) -> Any:
        self.executed.append(text)
        row = SimpleNamespace(replication={"class": "NetworkTopologyStrategy", "dc1": "3"})
        return SimpleNamespace(one=lambda: row)


@pytest.fixture
def rival(monkeypatch: pytest.MonkeyPatch) -> MadeUpRival:
    made = MadeUpRival()

    @contextmanager
    def run_configured(*arguments: Any) -> Iterator[MadeUpRival]:
        yield made

    monkeypatch.setattr(measure, "ensure_environment", lambda settings: None)
    monkeypatch.setattr(measure, "measure_drain", lambda bench, messages: DRAINED)
    monkeypatch.setattr(
        measure, "kafka_options", lambda settings, bootstrap: {"kafka.bootstrap.servers": "b"}
    )
    monkeypatch.setattr(measure, "_run_configured", run_configured)
    return made


def bench(session: MadeUpSession, folder: Path) -> Any:
    @contextmanager
    def open_session() -> Iterator[MadeUpSession]:
        yield session

    return SimpleNamespace(
        context=SimpleNamespace(settings=None), bootstrap=["b"], rival_messages=120_000, folder=folder,
        print_line=lambda text: None, open_session=open_session,
    )  # fmt: skip


def test_the_best_rival_drains_all_messages_and_its_keyspace_is_dropped(
    rival: MadeUpRival, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def compare(session: Any, expected: Expected, *, table: str = "ours") -> Found:
        compared.append(table)
        return Found(1, 0, 0)

    monkeypatch.setattr(measure, "compare_identities", compare)
    session = MadeUpSession()
    found = measure.measure_rival(bench(session, tmp_path))
    assert (found["drain_trades_per_s"], found["rival_rows_per_s"]) == (6_000, 2_000)
    assert found["rival_defaults_rows_per_s"] == 1_000
    assert found["best"]["batch_bytes"] == 65_536
    assert len(found["sweep"]) == tuning.DRAINS - 2
    assert len(rival.drains) == tuning.DRAINS
    assert rival.drains[-1]["messages"] == DRAINED.messages
    assert rival.drains[-1]["starting_offsets"] == DRAINED.starting_offsets
    assert compared == [f"bench_rival.{rival.drains[-1]['table']}", "ours"]
    created = [text for text in session.executed if text.startswith("CREATE TABLE")]
    assert [drain["table"] for drain in rival.drains] == [
        text.split("bench_rival.")[1].split()[0] for text in created
    ]
    assert session.executed[-1] == "DROP KEYSPACE IF EXISTS bench_rival"
    assert session.executed.index(session.executed[-1]) < session.executed.index(created[0])


def test_a_rival_that_lost_a_trade_has_no_figure(
    rival: MadeUpRival, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        measure, "compare_identities", lambda session, expected, table="ours": Found(1, table != "ours", 0)
    )
    session = MadeUpSession()
    with pytest.raises(StepFailed):
        measure.measure_rival(bench(session, tmp_path))
    assert session.executed[-1] == "DROP KEYSPACE IF EXISTS bench_rival"

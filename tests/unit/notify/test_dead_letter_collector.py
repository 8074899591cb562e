from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kintsugi.core.certificates import Principal
from kintsugi.core.errors import KintsugiError
from kintsugi.db.stream_record import Loss, LossState
from kintsugi.notify import dead_letter_collector
from kintsugi.notify.dead_letter_collector import OVERDUE, Letters, loss_pages, replay_order
from kintsugi.pipeline.consumer_offsets import LostRange
from kintsugi.pipeline.stream import driver_reports as sent
from kintsugi.pipeline.stream.driver_reports import KEY, StreamLetters

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ROW: dict[str, Any] = {"partition": 3, "offset": 9, "problem": "json", "raw": b"{", "bytes": 1}


class Kafka:
    """A producer that keeps what it is given, or refuses it."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.letters: list[tuple[bytes, bytes]] = []
        self.closed = self.made = 0

    def send(self, topic: str, *, key: bytes, value: bytes) -> None:
        if self.refuses:
            raise KintsugiError("no")
        self.letters.append((key, value))

    def flush(self, timeout: float) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


def letters_of(monkeypatch: pytest.MonkeyPatch, kafka: Kafka) -> StreamLetters:
    def made(bootstrap: list[str], principal: Principal) -> Kafka:
        kafka.made += 1
        return kafka

    monkeypatch.setattr(sent, "Producer", made)
    return StreamLetters(["k:1"])


def test_what_the_driver_sends_is_what_the_watchdog_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = Kafka()
    driver = letters_of(monkeypatch, kafka)
    driver.report_lost([LostRange(2, 5, 9)])
    driver.report_refused(
        [ROW, {**ROW, "raw": b"\xff", "problem": "size"}, {**ROW, "raw": None, "bytes": None}]
    )
    found = Letters()
    for offset, (key, value) in enumerate(kafka.letters):
        found.add(0, offset, key, value)
    assert found.lost == [(2, 5, 9)]
    assert found.reasons == {"json": 2, "size": 1}
    assert [json.loads(line)["offset"] for line in found.refused] == [9, 9, 9]
    assert (found.first, found.following) == ({0: 0}, {0: 4})


def test_letters_of_the_ingest_and_damaged_ones_are_passed_over() -> None:
    found = Letters()
    values = [
        b"{",
        b"[]",
        b'{"kind":"lost"}',
        b'{"kind":"refused"}',
        b'{"kind":"lost","partition":0,"first":"x"}',
    ]
    for offset, value in enumerate([b'{"file":"f","reason":"time"}', *values]):
        found.add(0, 100 + offset, None if offset == 0 else KEY, value)
    found.add(0, 106, KEY, None)
    found.add(0, 107, None, b'{"kind":"lost","partition":0,"first":1,"end":2}')
    assert (found.lost, found.refused, found.following) == ([], [], {0: 108})


def test_a_loss_that_cannot_be_reported_is_an_error_and_a_message_that_is_no_trade_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka = Kafka(refuses=True)
    driver = letters_of(monkeypatch, kafka)
    with pytest.raises(KintsugiError):
        driver.report_lost([LostRange(2, 5, 9)])
    driver.report_refused([ROW])
    kafka.refuses = False
    driver.report_lost([LostRange(2, 5, 9)])  # by a new producer: one that failed keeps its failure
    assert (len(kafka.letters), kafka.closed, kafka.made) == (1, 2, 3)


def loss(state: LossState = LossState.OPEN, age: timedelta = timedelta(0)) -> Loss:
    settled = None if state is LossState.OPEN else NOW
    return Loss(1, 10, 25, NOW - age, state, settled_at=settled)


@pytest.mark.parametrize(
    ("item", "pages"),
    [
        (loss(), 1),
        (loss(age=OVERDUE + timedelta(seconds=1)), 2),
        (loss(LossState.REPLAYED, OVERDUE * 2), 1),
        (loss(LossState.NOTHING), 1),
        (loss(LossState.GIVEN_UP), 2),
        (loss(age=timedelta(days=2)), 0),
    ],
)
def test_a_loss_pages_once_and_again_when_it_needs_a_decision(item: Loss, pages: int) -> None:
    found = loss_pages([item], NOW)
    assert len(found) == len({page.key for page in found}) == pages
    if found:
        assert "15" in found[0].title
        assert all(fact in found[0].text for fact in ("10", "24", dead_letter_collector.run_of(item)))


def test_a_loss_orders_one_replay() -> None:
    key, body = replay_order(loss())
    assert body == {"run": dead_letter_collector.run_of(loss()), "conf": {"loss": loss().id}}
    assert key.endswith(loss().id)

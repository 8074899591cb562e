"""The outbox on a real Postgres: nothing is lost, nothing is said twice."""

from __future__ import annotations

import threading
from datetime import timedelta

from kintsugi.db.outbox import CLAIM, MessageKind, Outbox, backoff
from tests.integration.notify.conftest import Tables

BODY = {"title": "t", "text": "x"}


def _turn_back(outbox: Outbox, key: str, by: timedelta) -> None:
    """Let time pass for one message."""
    with outbox.transaction() as connection:
        connection.execute(
            "UPDATE outbox SET due_at = due_at - %s, expires_at = expires_at - %s, done_at = done_at - %s"
            " WHERE key = %s",
            (by, by, by, key),
        )


def test_a_key_is_said_once_also_by_two_at_the_same_time(tables: Tables) -> None:
    said: list[bool] = []
    threads = [
        threading.Thread(target=lambda: said.append(tables.outbox.add_message("k", MessageKind.PAGE, BODY)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == [False] * 7 + [True]


def test_a_message_is_given_to_one_deliverer_until_its_claim_ends(tables: Tables) -> None:
    outbox = tables.outbox
    outbox.add_message("k", MessageKind.PAGE, BODY)
    assert outbox.find_due_kinds() == {MessageKind.PAGE}
    assert outbox.claim_message([MessageKind.DIGEST]) is None
    first = outbox.claim_message([MessageKind.PAGE, MessageKind.DIGEST])
    assert first is not None
    assert (first.key, first.body, first.attempts) == ("k", BODY, 1)
    assert outbox.claim_message([MessageKind.PAGE]) is None
    assert outbox.find_due_kinds() == set()
    _turn_back(outbox, "k", CLAIM)  # its deliverer was killed
    again = outbox.claim_message([MessageKind.PAGE])
    assert again is not None
    assert again.attempts == 2


def test_what_is_done_is_not_given_out_again_and_keeps_its_key(tables: Tables) -> None:
    outbox = tables.outbox
    outbox.add_message("k", MessageKind.MARKER, BODY)
    outbox.claim_message([MessageKind.MARKER])
    outbox.mark_delivered("k", {"id": "d1c84ec0"})
    _turn_back(outbox, "k", timedelta(days=2))
    assert outbox.claim_message([MessageKind.MARKER]) is None
    assert outbox.read_receipt("k") == {"id": "d1c84ec0"}
    assert not outbox.add_message("k", MessageKind.MARKER, BODY)
    assert outbox.forget_old() == 0
    _turn_back(outbox, "k", timedelta(days=30))
    assert outbox.forget_old() == 1


def test_a_failure_waits_and_keeps_what_was_reached(tables: Tables) -> None:
    outbox = tables.outbox
    outbox.add_message("k", MessageKind.PAGE, BODY)
    message = outbox.claim_message([MessageKind.PAGE])
    assert message is not None
    assert outbox.record_failure(message, "mail is away", {"a": "told"}) is False
    assert outbox.claim_message([MessageKind.PAGE]) is None
    assert outbox.read_undelivered() == [("k", "mail is away")]
    _turn_back(outbox, "k", backoff(1))
    again = outbox.claim_message([MessageKind.PAGE])
    assert again is not None
    assert again.receipt == {"a": "told"}


def test_what_has_expired_is_given_up_and_stays_on_record(tables: Tables) -> None:
    outbox = tables.outbox
    outbox.add_message("k", MessageKind.RECOVERY, BODY)
    _turn_back(outbox, "k", timedelta(minutes=16))
    message = outbox.claim_message([MessageKind.RECOVERY])
    assert message is not None
    assert outbox.record_failure(message, "Airflow is away") is True
    assert outbox.find_due_kinds() == set()
    assert outbox.read_undelivered() == [("k", "Airflow is away")]


def test_the_pause_grows_to_five_minutes() -> None:
    pauses = [backoff(attempts).total_seconds() for attempts in (1, 2, 5, 8, 9, 10_000)]
    assert pauses == [2, 4, 32, 256, 300, 300]


def test_heartbeats_are_the_databases_time(tables: Tables) -> None:
    beats = tables.heartbeats
    assert beats.last()[0] == {}
    beats.record(["kafka-1", "flow"])
    first, _ = beats.last()
    beats.record(["flow"])
    second, now = beats.last()
    assert second["kafka-1"] == first["kafka-1"]
    assert first["flow"] < second["flow"] <= now
    beats.forget(["flow"])
    assert set(beats.last()[0]) == {"kafka-1"}

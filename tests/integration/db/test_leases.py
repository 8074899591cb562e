"""Leases against a real Postgres: who holds one, and which token is fenced."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kintsugi.core.errors import LeaseHeld, StaleTokenError
from kintsugi.db.store import Store
from tests.integration.db.store_steps import at_once, lapse


def test_the_same_holder_renews_with_the_same_token(store: Store) -> None:
    first = store.acquire_lease("kafka-1", "run-1", 5)
    again = store.acquire_lease("kafka-1", "run-1", 60)
    assert again.token == first.token
    assert again.expires_at - first.expires_at > timedelta(seconds=50)


def test_another_holder_is_told_who_holds_it_and_until_when(store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    with pytest.raises(
        LeaseHeld, match=f"the lease on kafka-1 is held by run-1 until {lease.expires_at:%Y-%m}"
    ):
        store.acquire_lease("kafka-1", "run-2", 60)
    assert store.acquire_lease("kafka-2", "run-2", 60).token == 1


def test_an_expired_lease_goes_to_another_with_a_higher_token_and_fences_the_old(store: Store) -> None:
    old = store.acquire_lease("kafka-1", "run-1", 60)
    lapse(store, "kafka-1")
    new = store.acquire_lease("kafka-1", "run-2", 60)
    assert new.token > old.token
    with pytest.raises(StaleTokenError, match="no longer the newest"):
        store.check_lease("kafka-1", old.token)
    with pytest.raises(StaleTokenError):
        store.renew_lease("kafka-1", old.token, 60)
    store.release_lease("kafka-1", old.token)  # a stale release must not end the new holder's lease
    store.check_lease("kafka-1", new.token)


def test_a_lapsed_lease_must_be_renewed_before_acting(store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    lapse(store, "kafka-1")
    with pytest.raises(StaleTokenError, match="expired"):
        store.check_lease("kafka-1", lease.token)
    assert store.renew_lease("kafka-1", lease.token, 60).token == lease.token
    store.check_lease("kafka-1", lease.token)


def test_a_fresh_token_fences_an_older_process_of_the_same_holder(store: Store) -> None:
    orphan = store.acquire_lease("kafka-1", "run-1", 60)
    retry = store.acquire_lease("kafka-1", "run-1", 60, fresh_token=True)
    assert retry.token > orphan.token
    with pytest.raises(StaleTokenError):
        store.check_lease("kafka-1", orphan.token)


def test_a_lease_is_given_back_by_its_holder_only(store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    store.give_back("kafka-1", "run-2")
    assert store.read_lease("kafka-1") == lease
    store.give_back("kafka-1", "run-1")
    assert store.read_lease("kafka-1") is None
    assert store.acquire_lease("kafka-1", "run-2", 60).token > lease.token


def test_a_released_lease_is_free_and_its_token_is_never_given_again(store: Store) -> None:
    first = store.acquire_lease("kafka-1", "run-1", 60)
    store.release_lease("kafka-1", first.token)
    assert store.read_lease("kafka-1") is None
    with pytest.raises(StaleTokenError, match="released"):
        store.check_lease("kafka-1", first.token)
    assert store.acquire_lease("kafka-1", "run-1", 60).token > first.token


def test_of_many_holders_at_once_exactly_one_gets_the_lease(store: Store) -> None:
    for node in ("kafka-1", "kafka-2", "kafka-3"):
        results = at_once(
            *[lambda n=n, node=node: store.acquire_lease(node, f"run-{n}", 60) for n in range(8)]
        )
        assert len([result for result in results if not isinstance(result, LeaseHeld)]) == 1

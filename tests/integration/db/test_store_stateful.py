"""Any interleaving of recoverers, on a real Postgres: one holder, rising tokens, no act done twice."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kintsugi.core.errors import GuardRefused, LeaseHeld, StaleTokenError
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, Outcome
from kintsugi.db.store import Store

NODE = "kafka-1"
NOW = datetime.now(UTC)
holders = st.sampled_from(["run-1", "run-2", "run-3"])
keys = st.sampled_from(["1", "2"])


class Recoverers(RuleBasedStateMachine):
    """Three recoverers of one node, each with the token it believes in, beside a model of what must hold."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        with self.store.transaction() as connection:
            connection.execute("TRUNCATE lease, incident, incident_entry, pending_repair")
        self.newest = 0
        self.holder: str | None = None
        self.lapsed = False
        self.tokens: dict[str, int] = {}
        self.incident: str | None = None
        self.attempts: list[str] = []
        self.closed = 0

    def holds(self, who: str) -> bool:
        return self.holder is not None and self.tokens.get(who) == self.newest

    def act(self, who: str, write: Any) -> bool:
        """Do it with the token that ``who`` believes in; it must succeed exactly when that is the newest."""
        try:
            write(self.tokens[who])
        except StaleTokenError:
            assert not self.holds(who)
            return False
        assert self.holds(who)
        return True

    @rule(who=holders, fresh=st.booleans())
    def acquire(self, who: str, fresh: bool) -> None:
        free = self.holder in (None, who) or self.lapsed
        try:
            lease = self.store.acquire_lease(NODE, who, 3600, fresh_token=fresh)
        except LeaseHeld:
            assert not free
            return
        assert free
        if self.holder == who and not fresh:
            assert lease.token == self.newest
        else:
            assert lease.token > self.newest
        self.newest, self.holder, self.lapsed = lease.token, who, False
        self.tokens[who] = lease.token

    @rule()
    def time_passes(self) -> None:
        with self.store.transaction() as connection:
            connection.execute("UPDATE lease SET expires_at = clock_timestamp() - interval '1 s'")
        self.lapsed = True

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.tokens)))
        self.store.release_lease(NODE, self.tokens[who])
        if self.holds(who):
            self.holder = None

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.tokens)))
        if self.act(who, lambda token: self.store.renew_lease(NODE, token, 3600)):
            self.lapsed = False

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def check(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.tokens)))
        try:
            self.store.check_lease(NODE, self.tokens[who])
        except StaleTokenError:
            assert not self.holds(who) or self.lapsed
        else:
            assert self.holds(who)
            assert not self.lapsed

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.tokens)))
        found = []

        def write(token: int) -> None:
            found.append(
                self.store.open_incident(
                    NODE, token, role=Role.KAFKA, holder=who, first_failed_at=NOW, detected_at=NOW
                )
            )

        if self.act(who, write):
            if self.incident is not None:
                assert found[0].id == self.incident
            else:
                self.attempts = []
            self.incident = found[0].id

    @precondition(lambda self: self.tokens and self.incident)
    @rule(data=st.data(), key=keys)
    def attempt(self, data: st.DataObject, key: str) -> None:
        who, incident = data.draw(st.sampled_from(sorted(self.tokens))), str(self.incident)
        begun: list[bool] = []

        def write(token: int) -> None:
            begun.append(
                self.store.begin_attempt(
                    incident, token, Action.REBUILD, key=key, reason="why", refusals=lambda ledger: ()
                )
            )

        if self.act(who, write):
            self.lapsed = False
            assert begun == [key not in self.attempts]
            self.attempts += [key] * begun[0]

    @precondition(lambda self: self.tokens and self.incident)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        who, incident = data.draw(st.sampled_from(sorted(self.tokens))), str(self.incident)
        if self.act(who, lambda token: self.store.close_incident(incident, token, Outcome.HEALED, "well")):
            self.incident = None
            self.closed += 1
            with pytest.raises(GuardRefused):
                self.store.close_incident(incident, self.tokens[who], Outcome.FAILED, "no")

    def teardown(self) -> None:
        held = self.store.read_lease(NODE)
        assert (held and held.holder) == (None if self.lapsed else self.holder)
        incidents = self.store.read_incidents()
        still_open = [found for found in incidents if found.closed_at is None]
        assert [found.id for found in still_open] == [self.incident] * (self.incident is not None)
        assert len(incidents) == self.closed + len(still_open)
        for found in still_open:
            assert len(found.attempts()) == len(self.attempts)


def test_no_interleaving_of_recoverers_acts_twice(postgres: Any) -> None:
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    Recoverers.store = Store(postgres.dsn(name))
    Recoverers.store.migrate()
    run_state_machine_as_test(
        Recoverers,
        settings=settings(
            max_examples=10,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Diagnose, decide and judge against a fleet that fails in any order: what must never happen, never does.

The fleet here is a model that keeps the truth; the rules only see what probes and peers would tell, of which
any part may be missing. Destroying is carried out in the model, and checked against the truth at that moment.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, RepairBudget
from kintsugi.core.observation import (
    Headroom,
    NodeView,
    Observation,
    PeerOpinion,
    ProbeResult,
    ServiceProcess,
)
from kintsugi.recovery.common_cause import OtherNode
from kintsugi.recovery.diagnosis import diagnose_node
from kintsugi.recovery.escalation import MOST_ATTEMPTS, decide_action
from kintsugi.recovery.guard_model import CassandraFacts, Guard, GuardFacts, KafkaFacts, ReplicaCounts
from kintsugi.recovery.guards import evaluate_action
from tests.unit.recovery.server_model import Server

SILENCE = timedelta(seconds=5)
SIZE = 2**30
ZONES = {1: "a", 2: "a", 3: "b"}  # by the number of the server
FLEET_SIZE = 9  # the other roles stay well, so the breaker leaves these rules to themselves
numbers = st.sampled_from([1, 2, 3])
faults = st.sampled_from(
    ["process", "hang", "host", "silent", "disk", "full", "damaged", "unseen", "refused"]
)
unknowns = st.sets(st.sampled_from(["init", "volume", "heard", "copies", "peers", "platform"]), max_size=2)
waits = st.sampled_from([0.5, 2.0, 4.0, 6.0, 20.0, 4000.0])
stalls = st.sampled_from([6.0, 12.0, 24.0, 40.0])


class Team(RuleBasedStateMachine):
    """Three nodes of one role, in the real world and in the eyes of the recoverer."""

    @initialize(role=st.sampled_from([Role.KAFKA, Role.CASSANDRA]))
    def stand(self, role: Role) -> None:
        self.now = datetime(2026, 8, 1, 2, 0, tzinfo=UTC)
        self.servers = {number: Server(f"{role.value}-{number}", role) for number in (1, 2, 3)}
        self.pending: set[str] = set()
        self.written = 0
        self.pass_time(0.0)

    def others(self, server: Server) -> list[Server]:
        return [other for other in self.servers.values() if other is not server]

    # --- the world

    @rule(seconds=waits)
    def pass_time(self, seconds: float) -> None:
        for server in self.servers.values():
            if server.serves:
                server.last_seen_at = self.now + timedelta(seconds=seconds)  # by its peers, even if not by us
        self.now += timedelta(seconds=seconds)

    @rule(number=numbers, fault=faults)
    def break_one(self, number: int, fault: str) -> None:
        server = self.servers[number]
        server.failed_at = server.failed_at or self.now
        if fault == "process":
            server.process = "down"
        elif fault == "hang":
            server.process = "hung" if server.disk and not (server.full or server.damaged) else "down"
        elif fault in ("host", "silent"):
            server.host = "off" if fault == "host" else "silent"
        elif fault in ("unseen", "refused"):
            server.seen_from_us, server.refused = False, fault == "refused"
        elif fault == "full":
            server.process, server.full = "down", True
        elif fault == "damaged":
            server.process, server.damaged = "down", True
        else:
            server.process, server.disk, server.held = "down", False, set()

    @rule(number=numbers)
    def lose_the_disk(self, number: int) -> None:
        self.break_one(number, "disk")

    @rule(number=numbers)
    def come_back_by_itself(self, number: int) -> None:
        server = self.servers[number]
        if server.disk and not (server.full or server.damaged):
            server.process, server.host, server.seen_from_us, server.stalled = "up", "up", True, False
            self.settle(server)

    @rule(seconds=stalls, hidden=unknowns)
    def all_stall_for_a_while(self, seconds: float, hidden: set[str]) -> None:
        """A storage stall: whatever the recoverer tries meanwhile, nothing that runs is killed."""
        self.stall(list(self.servers.values()), seconds, hidden)

    @rule(seconds=stalls, hidden=unknowns)
    def a_zone_stalls_for_a_while(self, seconds: float, hidden: set[str]) -> None:
        """The network of a zone: its peers elsewhere serve on and call its nodes down, and it is held all the same."""
        self.stall([self.servers[number] for number, zone in ZONES.items() if zone == "a"], seconds, hidden)

    def stall(self, servers: list[Server], seconds: float, hidden: set[str]) -> None:
        serving = [server for server in servers if server.serves]
        if len(serving) < 2:
            return
        for server in serving:
            server.stalled, server.failed_at = True, self.now
        self.pass_time(seconds)
        for server in serving:
            before = len(server.attempts)
            self.recover(int(server.name[-1]), hidden - {"heard"}, helps=False)
            assert len(server.attempts) == before, f"{server.name} was acted upon in a stall of {seconds} s"
        for server in serving:
            server.stalled = False
            self.settle(server)

    @rule()
    def write(self) -> None:
        """An acknowledged write has two copies, as acks=all and LOCAL_QUORUM demand."""
        serving = [server for server in self.servers.values() if server.serves]
        if len(serving) >= 2:
            self.written += 1
            for server in serving:
                server.held.add(self.written)

    @rule(number=numbers)
    def write_while_one_is_away(self, number: int) -> None:
        self.break_one(number, "process")
        self.write()
        self.come_back_by_itself(number)

    @rule()
    def repair_all(self) -> None:
        """Nodes copy what they lack from each other; after that nothing is pending."""
        if all(server.serves for server in self.servers.values()):
            everything = set().union(*(server.held for server in self.servers.values()))
            for server in self.servers.values():
                server.held |= everything
            self.pending.clear()

    # --- the recoverer

    @rule(number=numbers, fault=faults, seconds=waits, hidden=unknowns, helps=st.booleans())
    def strike(self, number: int, fault: str, seconds: float, hidden: set[str], helps: bool) -> None:
        self.break_one(number, fault)
        self.pass_time(seconds)
        self.recover(number, hidden, helps)

    @rule(number=numbers, hidden=unknowns, helps=st.booleans(), suspicious=st.booleans())
    def recover(self, number: int, hidden: set[str], helps: bool, suspicious: bool = False) -> None:
        server = self.servers[number]
        seen = self.observe(server, hidden)
        action = self.decide(server, seen, suspicious=suspicious)
        self.carry_out(server, action, self.facts(server, seen, hidden), helps)

    @rule(number=numbers, hidden=unknowns, helps=st.booleans(), suspicious=st.booleans())
    def recover_though_refused(self, number: int, hidden: set[str], helps: bool, suspicious: bool) -> None:
        """The guards refuse, a person is told why and approves: those gates are open, and no other."""
        server = self.servers[number]
        seen, before = self.observe(server, hidden), len(server.attempts)
        facts = self.facts(server, seen, hidden)
        action = self.decide(server, seen, suspicious=suspicious, insisted=True)
        self.carry_out(server, action, facts, helps, approved=evaluate_action(action, facts).gates)
        server.insisted += len(server.attempts) - before if server.attempts else 0

    def decide(
        self, server: Server, seen: Observation, *, suspicious: bool, insisted: bool = False
    ) -> Action:
        return decide_action(
            diagnose_node(seen).verdict,
            server.attempts,
            role=server.role,
            volume_intact=seen.volume_intact,
            suspicious_release=suspicious,
            unfinished=server.name in self.pending,
            insisted=insisted,
        ).action

    @rule(number=numbers, fault=faults)
    def nothing_helps(self, number: int, fault: str) -> None:
        """The watch tries again for half a day, each time within its budget."""
        self.break_one(number, fault)
        for _ in range(2 * MOST_ATTEMPTS):
            self.pass_time(4000.0)
            self.recover(number, set(), helps=False)

    @rule(number=numbers)
    def want_the_worst(self, number: int) -> None:
        """A node is lost, nobody knows of its disk, and it is to be rebuilt from nothing, come what may."""
        self.break_one(number, "host")
        self.pass_time(6.0)
        server = self.servers[number]
        seen = self.observe(server, {"volume"})
        self.carry_out(server, Action.REBUILD, self.facts(server, seen, set()), True)

    def carry_out(
        self,
        server: Server,
        action: Action,
        facts: GuardFacts,
        helps: bool,
        approved: frozenset[Guard] = frozenset(),
    ) -> None:
        if not (action.changes and evaluate_action(action, facts, approved=approved).allowed):
            return
        if facts.process_ended and not action.destroys:
            assert server.process == "down", f"{server.name} has a process that a restart would kill"
        elif facts.running is not False:
            assert not server.serves, f"{server.name} serves and is killed"
        server.attempts.append(action)
        server.repairs.append(self.now)
        if not approved:
            server.unasked.append(self.now)
        if action.destroys:
            assert not server.serves, f"{server.name} serves and is destroyed"
            if server.runs:
                assert self.now - server.last_seen_at > SILENCE, f"{server.name} was heard within 5 s"
            server.host, server.stalled = "up", False
        if action.destroys_volume:
            self.destroy_volume(server, approved)
        if helps and server.disk and not (server.full or server.damaged) and server.host == "up":
            server.process = "up"
            self.settle(server)

    def destroy_volume(self, server: Server, approved: frozenset[Guard]) -> None:
        others = self.others(server)
        kept = set().union(*(other.held for other in others if other.disk))
        if not approved & {Guard.COPIES, Guard.PENDING}:  # else a person answers for it
            assert server.held <= kept, f"{server.name} held the last copy of {server.held - kept}"
            assert sum(other.serves for other in others) >= 2, f"without {server.name} no quorum is left"
        server.held, server.disk, server.full, server.damaged = set(), True, False, False
        self.pending.add(server.name)

    def settle(self, server: Server) -> None:
        server.attempts, server.failed_at, server.insisted = [], None, 0
        if server.serves:
            server.last_seen_at = self.now  # it serves its peers, even if it isn't seen by us

    def observe(self, server: Server, hidden: set[str]) -> Observation:
        peers = {
            other.name: PeerOpinion.UP
            if server.serves or self.now - server.last_seen_at < SILENCE
            else PeerOpinion.DOWN
            for other in self.others(server)
            if other.serves
        }
        reachable = server.host == "up" and server.seen_from_us
        return Observation(
            node=server.name,
            role=server.role,
            at=self.now,
            service=server.service_answer,
            ssh=server.answer(True),
            running=None if "platform" in hidden else server.runs,
            view=self.view(server, reachable, hidden),
            init_state="EXITED" if reachable and server.process == "down" and "init" not in hidden else None,
            volume_intact=None if "volume" in hidden else server.disk,
            room=Headroom(0 if server.full else SIZE, SIZE) if reachable and "volume" not in hidden else None,
            peers={} if "peers" in hidden else peers,
            damage="its log says so" if reachable and server.damaged and "init" not in hidden else None,
            last_seen_at=None if "heard" in hidden else server.last_seen_at,
        )

    def view(self, server: Server, reachable: bool, hidden: set[str]) -> NodeView:
        """What the node itself says over SSH."""
        if not reachable or "init" in hidden:
            return NodeView()
        lives = server.process != "down" and server.disk and not (server.full or server.damaged)
        return NodeView(
            process=ServiceProcess(7, 1) if lives else None,
            ended=not lives,
            listening=lives,
            connected=lives,
            answer=ProbeResult.OK if server.serves else ProbeResult.TIMEOUT if lives else ProbeResult.REFUSED,
        )

    @rule(number=numbers, fault=faults, seconds=waits, hidden=unknowns, cleared=st.booleans())
    def returns_at_the_last_moment(
        self, number: int, fault: str, seconds: float, hidden: set[str], cleared: bool
    ) -> None:
        """It is judged, comes back, and the step is run all the same, at once or (a cleared task) much later."""
        server = self.servers[number]
        self.break_one(number, fault)
        self.pass_time(seconds)
        action = self.decide(server, self.observe(server, hidden), suspicious=False)
        self.come_back_by_itself(number)
        self.pass_time(4000.0 if cleared else 0.5)
        if server.serves and action.changes:
            again = self.facts(server, self.observe(server, hidden), hidden)
            assert not evaluate_action(action, again).allowed, f"{server.name} serves again and may be killed"

    def facts(self, server: Server, seen: Observation, hidden: set[str]) -> GuardFacts:
        others = self.others(server)
        sick = sum(not other.serves for other in self.servers.values())
        repairs = [at for other in self.servers.values() for at in other.repairs]
        facts = GuardFacts(
            node=server.name,
            role=server.role,
            zone=ZONES[int(server.name[-1])],
            at=self.now,
            observed_at=self.now,
            service=seen.service,
            ssh=seen.ssh,
            last_seen_at=server.last_seen_at,  # what any peer heard counts: guard_facts.recent_liveness
            first_failed_at=server.failed_at,
            volume_intact=seen.volume_intact,
            running=seen.running,
            view=seen.view,
            others=tuple(
                OtherNode(
                    other.name,
                    other.role,
                    answers=other.service_answer is ProbeResult.OK,
                    running=None if "platform" in hidden else other.runs,
                    silent_since=None
                    if other.service_answer is ProbeResult.OK
                    else other.failed_at or self.now,
                    zone=ZONES[int(other.name[-1])],
                )
                for other in others
            ),
            fleet_size=FLEET_SIZE,
            sick=sick,
            protected=False,
            ledger=RepairBudget(
                (),
                sum(self.now - at < timedelta(hours=1) for at in server.repairs),
                sum(self.now - at < timedelta(hours=1) for at in repairs),
                frozenset(other.name for other in others if other.name in self.pending),
            ),
        )
        if "copies" in hidden:
            return facts
        return self.with_copies(facts, server, others)

    def with_copies(self, facts: GuardFacts, server: Server, others: list[Server]) -> GuardFacts:
        if server.role is Role.CASSANDRA:
            return replace(facts, cassandra=CassandraFacts(3, sum(not other.serves for other in others)))
        newest = set().union(*(peer.held for peer in [server, *others]))
        in_sync = frozenset(int(peer.name[-1]) for peer in [server, *others] if peer.held == newest)
        live = frozenset(int(other.name[-1]) for other in others if other.serves)
        return replace(
            facts,
            kafka=KafkaFacts(int(server.name[-1]), {"trades-0": ReplicaCounts(in_sync)}, live, 3, len(live)),
        )

    @invariant()
    def no_incident_goes_on_for_ever(self) -> None:
        assert all(
            len(server.attempts) - server.insisted <= MOST_ATTEMPTS for server in self.servers.values()
        )

    @invariant()
    def no_node_is_repaired_beyond_its_budget(self) -> None:
        for server in self.servers.values():
            assert sum(self.now - at < timedelta(hours=1) for at in server.unasked) <= 6


Team.TestCase.settings = settings(max_examples=300, stateful_step_count=15, deadline=None)
TestNothingTerribleHappens = Team.TestCase


@pytest.mark.parametrize("role", [Role.KAFKA, Role.CASSANDRA])
def test_a_node_that_serves_again_this_instant_is_heard_by_its_peers(role: Role) -> None:
    """An example that Hypothesis found once: the model let nobody hear it."""
    team = Team()
    team.stand(role)
    team.strike(number=1, fault="process", seconds=20.0, hidden=set(), helps=False)
    team.strike(number=1, fault="unseen", seconds=0.5, hidden=set(), helps=True)
    team.recover(number=1, hidden={"peers"}, helps=False)
    assert team.servers[1].serves

"""Three real Cassandra nodes: what gossip says of a dead one, and what a healed one has to show."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kintsugi.chaos.logs import COMMIT_LOG, damage_entry, damage_marker
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import ControlPlaneEndpoints, Fleet, Node, Role
from kintsugi.core.observation import PeerOpinion, ProbeResult
from kintsugi.environments.node_files import NodeFile, files_in
from kintsugi.operations import gossip_generation, readiness, verification_cassandra
from kintsugi.probes.observe import damage_of
from kintsugi.probes.peers import ask_peers
from kintsugi.probes.protocols import probe_node
from kintsugi.recovery import data_loss
from kintsugi.recovery.guard_facts import cassandra_facts
from tests.integration import servers

pytestmark = pytest.mark.timed

NODES = [Node(f"cassandra-{n}", Role.CASSANDRA, f"127.35.42.{n}", 2222) for n in (1, 2, 3)]
FLEET = Fleet(
    "test", "local", ControlPlaneEndpoints("127.35.42.9", 1, 2, 3, 4), {node.name: node for node in NODES}
)


@dataclass
class Ring:
    """The running nodes by name."""

    folder: Path
    by_name: dict[str, servers.Server]

    def start(self, node: Node) -> None:
        seeds = [NODES[0].address]
        folder = self.folder / node.name
        self.by_name[node.name] = servers.cassandra(folder, node.address, seeds=seeds, heap="384m")


async def _gossip_gap(node: Node) -> str | None:
    opinions = [witness.opinion for witness in await ask_peers(FLEET, node)]
    return None if opinions == [PeerOpinion.UP, PeerOpinion.UP] else f"its peers say {opinions}"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    running = Ring(tmp_path_factory.mktemp("cassandra"), {})
    try:
        for node in NODES:
            running.start(node)
        for node in NODES:
            asyncio.run(readiness.poll_until(partial(_gossip_gap, node), 60, "not yet known by its peers"))
        with verification_cassandra.RestrictedSession([NODES[0].address]) as session:
            replication = "{'class': 'NetworkTopologyStrategy', 'datacenter1': 3}"
            session.execute(f"CREATE KEYSPACE trades WITH replication = {replication}", timeout=20)
            session.execute(
                "CREATE TABLE trades.trade (symbol text, trade_date date, slot smallint, ts timestamp,"
                " trade_id blob, premium double, PRIMARY KEY ((symbol, trade_date, slot), ts, trade_id))",
                timeout=20,
            )
            for n in range(3):
                session.execute(
                    "INSERT INTO trades.trade (symbol, trade_date, slot, ts, trade_id, premium)"
                    f" VALUES ('AAPL', '2018-01-08', {n}, 1515428000000, 0x0{n}, 1.5)"
                )
        yield running
    finally:
        servers.stop_all(list(running.by_name.values()))


def test_a_living_ring(ring: Ring) -> None:
    trades = []
    for node in NODES:
        assert asyncio.run(probe_node(node)).answer is ProbeResult.OK
        said = asyncio.run(ask_peers(FLEET, node))
        assert [witness.opinion for witness in said] == [PeerOpinion.UP, PeerOpinion.UP]
        asyncio.run(readiness.poll_until(partial(readiness.readiness_gap, FLEET, node), 30, "not ready"))
        proof = verification_cassandra.verify_cassandra(FLEET, node, 30)
        read = re.search(r"(\d+) trades, from its own replica", proof)
        assert read is not None, proof
        trades.append(int(read[1]))
    assert sum(trades) == 3, f"each trade is in the primary range of one node: {trades}"
    facts = asyncio.run(cassandra_facts(FLEET, NODES[0]))
    assert (facts.replication, facts.others_down) == (3, 0)


def test_a_row_that_only_others_hold_proves_nothing(ring: Ring) -> None:
    """A read that needs other replicas is refused as a proof, however right its answer is."""
    with verification_cassandra.RestrictedSession([NODES[0].address]) as session:
        replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"  # most keys live elsewhere
        session.execute(f"CREATE KEYSPACE single WITH replication = {replication}", timeout=20)
        session.execute("CREATE TABLE single.t (k int PRIMARY KEY)", timeout=20)
        for key in range(20):
            session.execute(f"INSERT INTO single.t (k) VALUES ({key})")
        refused = [key for key in range(20) if not _proves(session, key)]
        assert 0 < len(refused) < 20


def _proves(session: Any, key: int) -> bool:
    try:
        return bool(
            verification_cassandra._read_own_replica(session, "SELECT k FROM single.t WHERE k = %s", (key,))
        )
    except StepFailed as refusal:
        if "read from another replica" not in str(refusal):
            raise
        return False


def test_a_dead_node_is_silent_at_once_and_down_for_its_peers_soon(ring: Ring) -> None:
    node = NODES[2]
    ring.by_name[node.name].kill()
    said = asyncio.run(ask_peers(FLEET, node))
    assert PeerOpinion.UP not in {witness.opinion for witness in asyncio.run(ask_peers(FLEET, node))}, said

    async def not_down() -> str | None:
        opinions = {witness.opinion for witness in await ask_peers(FLEET, node)}
        return None if opinions == {PeerOpinion.DOWN} else f"its peers say {opinions}"

    asyncio.run(readiness.poll_until(not_down, 60, "not down for its peers"))
    facts = asyncio.run(cassandra_facts(FLEET, NODES[0]))
    assert facts.others_down == 1
    lacks = asyncio.run(readiness.readiness_gap(FLEET, node))
    assert lacks is not None
    # While one is dead, another one can still be redundant: it is heard by those that live.
    assert asyncio.run(readiness.readiness_gap(FLEET, NODES[1])) is None
    ring.start(node)
    asyncio.run(readiness.poll_until(lambda: readiness.readiness_gap(FLEET, node), 60, "not ready"))
    assert "from its own replica" in verification_cassandra.verify_cassandra(FLEET, node, 60)


def test_lives_are_counted_on_after_a_fast_clock_wrote_their_number(ring: Ring) -> None:
    """Else each later start repeats a generation, and peers take its heartbeats for those of the life before."""
    node = NODES[2]

    def generation() -> int:
        with verification_cassandra.RestrictedSession([node.address]) as session:
            rows = {row.address: row.generation for row in session.execute(gossip_generation.IN_FORCE)}
        return int(rows[node.address])

    assert gossip_generation.bump_generation(node) is None
    fast = int(time.time()) + 3600
    with verification_cassandra.RestrictedSession([node.address]) as session:
        session.execute(gossip_generation.KEEP, (fast * 10**6, fast))
    for life in (1, 2):
        ring.by_name[node.name].stop()
        ring.start(node)
        assert generation() == fast + life
        assert f"it was stored again and continues from {fast + life}" in str(
            gossip_generation.bump_generation(node)
        )


def test_a_life_with_the_number_of_one_that_announced_its_end_is_noticed_and_the_next_one_is_heard(
    ring: Ring,
) -> None:
    """Seen in the table of faults: a restart before `bump_generation`, and peers held the node for shut down."""
    node = NODES[2]
    fast = int(time.time()) + 7200
    with verification_cassandra.RestrictedSession([node.address]) as session:
        session.execute(gossip_generation.KEEP, (fast * 10**6, fast))
    assert asyncio.run(gossip_generation.ignored_by_peers(FLEET, node)) is None
    for _ in (1, 2):
        ring.by_name[node.name].stop()
        ring.start(node)
    known = asyncio.run(gossip_generation.ignored_by_peers(FLEET, node))
    assert known is not None
    assert known.why.startswith(f"{NODES[0].name} and {NODES[1].name} ignore {node.name}")
    heard_again_after_a_restart(ring, node, known.generation)


def test_a_life_whose_number_was_lost_with_its_disk_is_noticed_and_the_next_one_is_heard(ring: Ring) -> None:
    """Seen in a campaign: a clock that was an hour fast, then a new disk. Its peers would ignore it for an hour."""
    node = NODES[2]
    with verification_cassandra.RestrictedSession([node.address]) as session:
        kept = session.execute(gossip_generation.KEPT).one()
        assert kept.gossip_generation > time.time() + 600, "the test before left a number of the future"
        session.execute(gossip_generation.KEEP, (kept.written_us + 1, int(time.time()) - 60))
    ring.by_name[node.name].stop()
    ring.start(node)
    known = asyncio.run(gossip_generation.ignored_by_peers(FLEET, node))
    assert known is not None
    assert "newer, from a clock that was ahead" in known.why
    assert known.generation >= kept.gossip_generation
    heard_again_after_a_restart(ring, node, known.generation)


def heard_again_after_a_restart(ring: Ring, node: Node, generation: int) -> None:
    gossip_generation.continue_from(node, generation)
    ring.by_name[node.name].stop()
    ring.start(node)
    asyncio.run(readiness.poll_until(lambda: readiness.readiness_gap(FLEET, node), 60, "not ready"))
    assert asyncio.run(gossip_generation.ignored_by_peers(FLEET, node)) is None


def damage_newest_log(ring: Ring, node: Node, damage: Callable[[NodeFile], bool]) -> int:
    """Kill the node and damage its commit log; returns the length of its log until then."""
    server = ring.by_name[node.name]
    server.kill()
    found = files_in(ring.folder / node.name, "data/commitlog")
    segments = [segment for segment in found if fnmatch(segment.name, COMMIT_LOG)]
    assert any(damage(segment) for segment in reversed(segments))
    return len(server.log.read_text())


def stamped(lines: list[str]) -> list[str]:
    """The lines with the time before them, as our logback.xml has it."""
    return [f"{datetime.now(UTC).isoformat()} {line}" for line in lines]


def test_a_node_that_goes_on_without_a_part_of_its_commit_log_says_so(ring: Ring) -> None:
    """Its words are what the comparison of its ranges goes by."""
    before = damage_newest_log(ring, NODES[2], damage_entry)
    ring.start(NODES[2])
    said = stamped(ring.by_name[NODES[2].name].log.read_text()[before:].splitlines())
    assert any(data_loss.LEFT_OUT in line for line in said)
    assert damage_of(Role.CASSANDRA, "\n".join(said), datetime.now(UTC)) is None


def test_a_node_whose_commit_log_is_damaged_says_so_when_it_ends_itself(ring: Ring) -> None:
    """The last one here, because the node doesn't come up again. Its words are what `diagnose` goes by."""
    before = damage_newest_log(ring, NODES[2], damage_marker)
    with pytest.raises(AssertionError, match="ended with"):
        ring.start(NODES[2])
    said = stamped(ring.by_name[NODES[2].name].log.read_text()[before:].splitlines())
    assert damage_of(Role.CASSANDRA, "\n".join(said), datetime.now(UTC)) is not None

"""Verify a recovered Cassandra node: it must read known rows from its own replica."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import cassandra_options
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node
from kintsugi.core.settings import CASSANDRA_PORT, KEYSPACE

if TYPE_CHECKING:
    from cassandra.cluster import Session

SAMPLE = 10
KEYS = 10_000  # so many keys are tried; of a node that has a hundredth of the ring one in a hundred fits
FIRST_TOKEN, LAST_TOKEN = -(2**63), 2**63 - 1
REMOTE = ("Sending READ_REQ", "Enqueuing request to", "reading data from", "reading digest from")
PROOF_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.proof (node text PRIMARY KEY, written_at timestamp) "
    "WITH default_time_to_live = 86400"
)


def verify_cassandra(fleet: Fleet, node: Node, deadline_s: float) -> str:
    """Read a row that the other nodes just wrote, and a sample of trades, from this node's own disk.

    The rows are first read from the other nodes at LOCAL_QUORUM. Then they are read at ONE with this node as the only
    coordinator, and the trace must show no message to another replica. Returns a sentence; raises StepFailed.
    """
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    ends = time.monotonic() + deadline_s
    while True:
        try:
            return _verify_own_replica(fleet, node)
        except (DriverException, NoHostAvailable, StepFailed) as error:
            if time.monotonic() > ends:
                text = str(error) if isinstance(error, StepFailed) else f"{type(error).__name__}: {error}"
                raise StepFailed(
                    f"{node.name} is not verified after {deadline_s:.0f} s: {text}; read its cassandra.log"
                ) from error
            time.sleep(0.5)


def _verify_own_replica(fleet: Fleet, node: Node) -> str:
    peers = [peer.address for peer in fleet.peers(node)]
    with RestrictedSession(peers) as others, RestrictedSession([node.address]) as this:
        ranges = _read_primary_ranges(this)
        key = choose_key(node.name, ranges)
        written_at = _write_row(others, key)
        if _read_row(this, key) != written_at:
            raise StepFailed("its own replica doesn't have the row that its peers just wrote")
        trades = _sample_trades(others, ranges)
        behind = sum(1 for row in trades if not _holds_trade(this, row))
        if behind:
            raise StepFailed(
                f"its own replica is missing {behind} of {len(trades)} trades that its peers hold"
            )
    return (
        f"{node.name} read the row that its peers just wrote, and {len(trades)} trades, from its own replica"
    )


class RestrictedSession:
    """A session that connects to the given addresses only; a context manager."""

    def __init__(self, addresses: list[str]) -> None:
        from cassandra import ConsistencyLevel
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
        from cassandra.policies import WhiteListRoundRobinPolicy

        profile = ExecutionProfile(
            load_balancing_policy=WhiteListRoundRobinPolicy(addresses),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            request_timeout=5.0,
        )
        self._cluster = Cluster(
            addresses,
            port=CASSANDRA_PORT,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            connect_timeout=3.0,
            control_connection_timeout=3.0,
            schema_metadata_enabled=False,
            token_metadata_enabled=False,
            **cassandra_options(Principal.RECOVERY),
        )

    def __enter__(self) -> Session:
        try:
            return self._cluster.connect()
        except BaseException:
            self._cluster.shutdown()
            raise

    def __exit__(self, *exception: object) -> None:
        self._cluster.shutdown()


def _read_primary_ranges(session: Session) -> list[tuple[int, int]]:
    """Return the primary ranges of the node that the session is restricted to; see `primary_ranges`."""
    own = session.execute("SELECT tokens FROM system.local").one().tokens or ()
    others = [
        token for row in session.execute("SELECT tokens FROM system.peers") for token in row.tokens or ()
    ]
    return primary_ranges(map(int, own), map(int, others))


def primary_ranges(own: Iterable[int], others: Iterable[int]) -> list[tuple[int, int]]:
    """Return the token ranges of which a node is the first replica, each as *after*, *up to and including*. Pure.

    With more nodes than copies a node does not hold every row, but it holds those of its primary ranges. ``own``,
    ``others``: the tokens of the node and of all other nodes. Without any token there is no range.
    """
    mine = set(own)
    ring = sorted({*mine, *others})
    ranges = []
    for place, token in enumerate(ring):
        if token in mine:
            before = ring[place - 1] if place else None
            ranges.append((FIRST_TOKEN if before is None else before, token))
    if ring and ring[0] in mine:  # the ring is closed: what follows the last token belongs to the first one
        ranges.append((ring[-1], LAST_TOKEN))
    return ranges


def choose_key(name: str, ranges: Collection[tuple[int, int]]) -> str:
    """Return a partition key that begins with ``name`` and lies in one of the ranges. Raises StepFailed."""
    from cassandra.metadata import Murmur3Token

    for number in range(KEYS):
        key = f"{name} {number}"
        token = Murmur3Token.hash_fn(key.encode())
        if any(after < token <= end for after, end in ranges):
            return key
    raise StepFailed("it has no token range of its own in the ring")


def _write_row(session: Session, key: str) -> datetime:
    """Write a verification row through the other nodes; returns its time (UTC, milliseconds)."""
    known = session.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = 'proof'",
        (KEYSPACE,),
    )
    if not known.one():
        session.execute(PROOF_TABLE, timeout=15)
    now = datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    session.execute(f"INSERT INTO {KEYSPACE}.proof (node, written_at) VALUES (%s, %s)", (key, now))
    return now


def _read_row(session: Session, key: str) -> datetime | None:
    rows = _read_own_replica(session, f"SELECT written_at FROM {KEYSPACE}.proof WHERE node = %s", (key,))
    return rows[0].written_at.replace(tzinfo=UTC) if rows else None


def _sample_trades(session: Session, ranges: Iterable[tuple[int, int]]) -> list[Any]:
    """Return some trades of these ranges that a quorum of the other nodes holds; none if there is none."""
    known = session.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = 'trade'",
        (KEYSPACE,),
    )
    if not known.one():
        return []
    columns = "symbol, trade_date, slot, ts, trade_id, premium"
    trades: list[Any] = []
    for after, end in ranges:
        trades += session.execute(
            f"SELECT {columns} FROM {KEYSPACE}.trade WHERE token(symbol, trade_date, slot) > %s "
            f"AND token(symbol, trade_date, slot) <= %s LIMIT {SAMPLE}",
            (after, end),
        )
        if len(trades) >= SAMPLE:
            break
    return trades[:SAMPLE]


def _holds_trade(session: Session, row: Any) -> bool:
    """Whether the node holds the same trade on its own disk."""
    rows = _read_own_replica(
        session,
        f"SELECT premium FROM {KEYSPACE}.trade "
        "WHERE symbol = %s AND trade_date = %s AND slot = %s AND ts = %s AND trade_id = %s",
        (row.symbol, row.trade_date, row.slot, row.ts, row.trade_id),
    )
    return bool(rows) and rows[0].premium == row.premium


def _read_own_replica(session: Session, cql: str, parameters: tuple[Any, ...]) -> list[Any]:
    """Read at ONE with a trace; raises StepFailed if another replica took part."""
    from cassandra import ConsistencyLevel
    from cassandra.query import SimpleStatement

    statement = SimpleStatement(cql, consistency_level=ConsistencyLevel.ONE)
    result = session.execute(statement, parameters, trace=True)
    rows = list(result)
    trace = result.get_query_trace(max_wait_sec=5.0)
    if any(word in event.description for event in trace.events for word in REMOTE):
        raise StepFailed("it read from another replica instead of its own disk")
    return rows

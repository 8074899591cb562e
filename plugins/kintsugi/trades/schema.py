"""Topics and tables of the pipeline, made if they are missing; safe to run at any time, by several at once.

Tables are modelled by the query they answer, and no partition grows without bound:

- ``trade``: the trades of a symbol on a day, in time. One partition holds a symbol's quarter of an hour.
  A month of all US options is 29 million rows, 1.4 million a day; if ^SPX had a fifth of them, and its
  busiest quarter of an hour a tenth of its day, that partition would hold 28,000 rows of about 200 bytes:
  6 MB, far below the 100 MB where Cassandra's reads suffer.
- ``unusual_trade``: the unusual trades of a day, of one symbol or of all. One partition a day: signals
  fire on fewer than one trade in a hundred, so 14,000 rows of 250 bytes, 4 MB.
- ``baseline``: what is usual for a symbol, by bucket and by the day of the end-of-day file. 30 rows a
  symbol a day.

Times to live bound the whole. A trade's row is written once and never changed, so compaction by time
window suits it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kintsugi.errors import KintsugiError
from kintsugi.settings import DEAD_LETTER_TOPIC, KEYSPACE, TOPIC

if TYPE_CHECKING:
    from cassandra.cluster import Session

TOPIC_PARTITIONS = 6
TOPIC_RETENTION_HOURS = 72
TOPIC_RETENTION_BYTES = 512 * 2**20  # a partition
TRADE_DAYS = 40
BASELINE_DAYS = 400
DAY = 86_400

TRADE_COLUMNS = (
    ("symbol", "text"), ("trade_date", "date"), ("slot", "smallint"), ("ts", "timestamp"),
    ("trade_id", "blob"),
    ("sequence", "bigint"), ("root", "text"), ("expiration", "date"), ("strike", "double"),
    ("option_type", "text"),
    ("exchange", "smallint"), ("size", "int"), ("price", "double"), ("condition", "smallint"),
    ("canceled_condition", "smallint"), ("bid", "double"), ("ask", "double"), ("iv", "double"),
    ("delta", "double"),
    ("underlying_bid", "double"), ("underlying_ask", "double"), ("exchanges", "smallint"),
    ("premium", "double"),
    ("side", "text"), ("canceled", "boolean"), ("expiry_bin", "text"), ("delta_bin", "text"),
)  # fmt: skip
UNUSUAL_COLUMNS = (
    ("trade_date", "date"), ("symbol", "text"), ("ts", "timestamp"), ("trade_id", "blob"), ("signal", "text"),
    ("score", "double"), ("root", "text"), ("expiration", "date"), ("strike", "double"),
    ("option_type", "text"),
    ("size", "int"), ("price", "double"), ("premium", "double"), ("side", "text"), ("iv", "double"),
    ("delta", "double"), ("usual_mean", "double"), ("usual_stddev", "double"),
)  # fmt: skip
BASELINE_COLUMNS = (
    ("symbol", "text"), ("as_of", "date"), ("option_type", "text"), ("delta_bin", "text"),
    ("expiry_bin", "text"),
    ("volume_count", "int"), ("volume_mean", "double"), ("volume_median", "double"),
    ("volume_stddev", "double"),
    ("iv_count", "int"), ("iv_mean", "double"), ("iv_median", "double"), ("iv_stddev", "double"),
)  # fmt: skip


def _table(name: str, columns: tuple[tuple[str, str], ...], key: str, options: str) -> str:
    body = ", ".join(f"{column} {kind}" for column, kind in columns)
    return f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.{name} ({body}, PRIMARY KEY ({key})) WITH {options}"


TABLES = {
    "trade": _table(
        "trade", TRADE_COLUMNS, "(symbol, trade_date, slot), ts, trade_id",
        f"default_time_to_live = {TRADE_DAYS * DAY} AND compaction = "
        "{'class': 'TimeWindowCompactionStrategy', "
        "'compaction_window_unit': 'DAYS', 'compaction_window_size': 1}",
    ),
    "unusual_trade": _table(
        "unusual_trade", UNUSUAL_COLUMNS, "trade_date, symbol, ts, trade_id, signal",
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "baseline": _table(
        "baseline", BASELINE_COLUMNS, "symbol, as_of, option_type, delta_bin, expiry_bin",
        f"default_time_to_live = {BASELINE_DAYS * DAY}",
    ),
}  # fmt: skip


def ensure_tables(contact_points: list[str], replication: int = 3, timeout: float = 60.0) -> None:
    """Create the keyspace and its tables where they are missing.

    Waits until all nodes agree on the schema.     ``replication``: copies of every row in this
    datacentre. Raises KintsugiError when Cassandra can't be reached, or its nodes don't agree, within
    ``timeout`` seconds. Two callers at once are safe: the statements are IF NOT EXISTS, and a collision
    shows as a schema disagreement, which is waited for.
    """
    from kintsugi.trades.cassandra import connected

    deadline = time.monotonic() + timeout
    while True:
        try:
            with connected(contact_points, keyspace=None) as session:
                _create_tables(session, replication)
            return
        except Exception as error:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"cannot create the tables on {', '.join(contact_points)}: {error}; "
                    "are a majority of the Cassandra nodes up and normal?"
                ) from error
            time.sleep(0.5)


def _create_tables(session: Session, replication: int) -> None:
    datacenter = session.execute("SELECT data_center FROM system.local").one().data_center
    session.execute(
        f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replication}}}"
    )
    known = {
        row.table_name
        for row in session.execute(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (KEYSPACE,)
        )
    }
    for name, statement in TABLES.items():
        if name not in known:
            session.execute(statement)
    if not session.cluster.control_connection.wait_for_schema_agreement(wait_time=20):
        raise KintsugiError("the Cassandra nodes don't agree on the schema")


def ensure_topics(bootstrap: list[str], replication: int = 3, timeout: float = 60.0) -> None:
    """Create the topics where they are missing, and wait until every partition has a leader.

    ``trades``: six partitions, two in-sync replicas for a write. Dead letters: one partition. An existing
    topic is left as it is. ``replication`` is lowered only by tests with one broker. Raises KintsugiError
    after ``timeout`` seconds.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    deadline = time.monotonic() + timeout
    while True:
        try:
            admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000)
            try:
                _create_topics(admin, replication)
                return
            finally:
                admin.close()
        except KafkaError as error:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"cannot create the topics on {', '.join(bootstrap)}: {error!r}; "
                    "are enough Kafka brokers up?"
                ) from error
            time.sleep(0.5)


def _create_topics(admin: Any, replication: int) -> None:
    from kafka.admin import NewTopic
    from kafka.errors import KafkaConnectionError, TopicAlreadyExistsError

    common = {
        "min.insync.replicas": str(min(2, replication)),
        "retention.ms": str(TOPIC_RETENTION_HOURS * 3_600_000),
        "retention.bytes": str(TOPIC_RETENTION_BYTES),
        "segment.bytes": str(64 * 2**20),
    }
    known = set(admin.list_topics())
    for name, partitions in ((TOPIC, TOPIC_PARTITIONS), (DEAD_LETTER_TOPIC, 1)):
        if name in known:
            continue
        with suppress(TopicAlreadyExistsError):  # another caller was first
            admin.create_topics([NewTopic(name, partitions, replication, topic_configs=common)])
    for topic in admin.describe_topics([TOPIC, DEAD_LETTER_TOPIC]):
        if topic["error_code"] or any(partition["error_code"] for partition in topic["partitions"]):
            raise KafkaConnectionError(f"topic {topic['name']} has a partition without a leader")

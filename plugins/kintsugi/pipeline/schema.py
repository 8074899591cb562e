"""Create the topics and tables of the pipeline if they are missing; several processes may do it at once.

Each table is modelled by the query that it answers, and no partition grows without limit:

- ``trade``: the trades of a symbol on a day, in time. One partition holds a symbol's quarter of an hour.
  A month of all US options is 29 million rows, 1.4 million a day. If ^SPX had a fifth of them, and its
  busiest quarter of an hour a tenth of its day, that partition would hold 28,000 rows of about 200 bytes:
  6 MB. Cassandra's reads become slow at about 100 MB.
- ``unusual_trade``: the unusual trades of a day, of one symbol or of all. One partition a day: signals
  fire on fewer than one trade in a hundred, so 14,000 rows of 250 bytes, 4 MB.
- ``unusual_canceled``: the rows of ``unusual_trade`` whose trades were cancelled; the same columns.
- ``unusual_top``: the same trades as ``unusual_trade``, ranked by ``premium`` or by the score of one signal. One
  partition a day and ranking, no larger than ``unusual_trade``'s.
- ``flow_window``: the flow of a symbol on a day, by window of 60 s. One partition a symbol and day: 1,440
  windows at most, whatever the number of trades, of about 150 bytes: 0.2 MB.
- ``flow_alert``: the windows of a day that signal, of one symbol or of all. 5,000 symbols of 405 windows
  are two million windows a day; if one in a thousand signals, 2,000 rows.
- ``cancel``: the cancels of a symbol on a day, and the trade that each one cancels. 0.4 % of ^SPX's 280,000
  trades a day: 1,100 rows.
- ``late_trades``: trades that arrived after their window was closed, counted by reason. One partition a trading
  day, one row a batch with late trades; a whole day replayed at 20,000 trades a batch is 6 x 70 rows.
- ``stream_driver``: one row: the youngest streaming driver, and the versions of what it holds in memory.
- ``baseline``: the usual values of a symbol, by bucket and by the day of the end-of-day file. 30 rows a
  symbol a day, 12,000 in the 400 days that they are kept.

Times to live limit the size of all tables. A trade's row is written once. Only few rows change later: cancelled trades
get ``canceled_by`` (the identity of the cancel), unusual ones ``scores``. So compaction by time window fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.settings import DEAD_LETTER_TOPIC, KAFKA_PORT, KEYSPACE, TOPIC
from kintsugi.pipeline.authorization import (
    authorize_in_cassandra,
    authorize_in_kafka,
    ensure_super_role,
)
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.score_backfill import backfill_scores

if TYPE_CHECKING:
    from cassandra.cluster import Session

    from kintsugi.core.fleet import Fleet

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
# Not a stored column, but the write timestamp of the row, in microseconds since 1970 UTC: the time of the message in
# Kafka, plus its offset modulo 1000. A trade's messages are on one partition, so a later version has a greater
# timestamp, and two versions never have the same one. At the same timestamp Cassandra would merge two rows by column.
VERSION_COLUMN = ("stamp", "bigint")
# Columns of `trade` that are written later; null when its row is written. ``scores``: by signal, the score and the
# baseline (mean or median, standard deviation); null for a trade without a signal.
MARK_COLUMNS = (
    ("canceled_by", "blob"),
    ("scores", "frozen<map<text, frozen<tuple<double, double, double>>>>"),
)
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
    ("volume_log_stddev", "double"), ("iv_log_stddev", "double"),
)  # fmt: skip
TOP_COLUMNS = (("ranking", "text"), ("value", "double"), *UNUSUAL_COLUMNS)
WINDOW_COLUMNS = (
    ("symbol", "text"), ("trade_date", "date"), ("window_start", "timestamp"), ("trades", "int"),
    ("call_delta", "double"), ("put_delta", "double"), ("imbalance", "double"), ("imbalance_z", "double"),
    ("premium_bought", "double"), ("premium_sold", "double"), ("premium_unknown", "double"),
    ("aggressor_z", "double"), ("signal", "text"),
)  # fmt: skip
CANCEL_COLUMNS = (
    ("symbol", "text"), ("trade_date", "date"), ("cancel_id", "blob"), ("ts", "timestamp"),
    ("slot", "smallint"), ("sequence", "bigint"), ("root", "text"), ("expiration", "date"),
    ("strike", "double"), ("option_type", "text"), ("exchange", "smallint"), ("size", "int"), ("price", "double"),
    ("canceled_condition", "smallint"), ("match", "bigint"), ("trade_id", "blob"),
    ("former", "frozen<set<blob>>"), ("condition", "smallint"),
)  # fmt: skip
# One row: the youngest driver, and the versions of what a driver holds in memory (microseconds since 1970 UTC).
DRIVER_COLUMNS = (
    ("name", "text"), ("epoch", "bigint"), ("baseline_version", "bigint"), ("repair_version", "bigint"),
)  # fmt: skip
LATE_COLUMNS = (
    ("trade_date", "date"), ("reason", "text"), ("partition", "int"), ("end_offset", "bigint"), ("trades", "int"),
)  # fmt: skip


def _create_statement(name: str, columns: tuple[tuple[str, str], ...], key: str, options: str) -> str:
    body = ", ".join(f"{column} {kind}" for column, kind in columns)
    return f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.{name} ({body}, PRIMARY KEY ({key})) WITH {options}"


# Within a day, eight files of similar size are merged into one. By default all files below 50 MB count as similar, so
# the largest was rewritten with each three new ones: a fifth of the processor time of a stored trade.
TRADE_COMPACTION = {
    "class": "TimeWindowCompactionStrategy",
    "compaction_window_unit": "DAYS",
    "compaction_window_size": "1",
    "min_threshold": "8",
    "min_sstable_size": str(2**20),
}
TABLES = {
    "trade": _create_statement(
        "trade", TRADE_COLUMNS + MARK_COLUMNS, "(symbol, trade_date, slot), ts, trade_id",
        f"default_time_to_live = {TRADE_DAYS * DAY} AND compaction = {TRADE_COMPACTION}",
    ),
    "unusual_trade": _create_statement(
        "unusual_trade", UNUSUAL_COLUMNS, "trade_date, symbol, ts, trade_id, signal",
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "unusual_canceled": _create_statement(
        "unusual_canceled", UNUSUAL_COLUMNS, "trade_date, symbol, ts, trade_id, signal",
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "unusual_top": _create_statement(
        "unusual_top", TOP_COLUMNS, "(trade_date, ranking), value, symbol, ts, trade_id, signal",
        "CLUSTERING ORDER BY (value DESC, symbol ASC, ts ASC, trade_id ASC, signal ASC) AND "
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "flow_window": _create_statement(
        "flow_window", WINDOW_COLUMNS, "(symbol, trade_date), window_start",
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "flow_alert": _create_statement(
        "flow_alert", WINDOW_COLUMNS, "trade_date, symbol, window_start",
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "cancel": _create_statement(
        "cancel", CANCEL_COLUMNS, "(symbol, trade_date), cancel_id",
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "late_trades": _create_statement(
        "late_trades", LATE_COLUMNS, "trade_date, reason, partition, end_offset",
        f"default_time_to_live = {TRADE_DAYS * DAY}",
    ),
    "stream_driver": _create_statement(
        "stream_driver", DRIVER_COLUMNS, "name", "comment = 'the youngest driver wins'"
    ),
    "baseline": _create_statement(
        "baseline", BASELINE_COLUMNS, "symbol, as_of, option_type, delta_bin, expiry_bin",
        f"default_time_to_live = {BASELINE_DAYS * DAY}",
    ),
}  # fmt: skip


def ensure_topics_and_tables(fleet: Fleet) -> None:
    """Create what the pipeline needs in a running fleet: `ensure_topics`, then `ensure_tables`."""
    ensure_topics(fleet.endpoints(Role.KAFKA, KAFKA_PORT))
    ensure_tables([node.address for node in fleet.of(Role.CASSANDRA)])


def ensure_tables(contact_points: list[str], replication: int = 3, timeout: float = 60.0) -> None:
    """Create the keyspace and its tables if they are missing, and migrate those of an earlier release.

    Waits until all nodes agree on the schema. ``replication``: copies of every row in this datacentre. Raises
    KintsugiError when Cassandra can't be reached, or its nodes don't agree, within ``timeout`` seconds. Two callers at
    once are safe: the statements have IF NOT EXISTS. A collision causes a schema disagreement or an error, and then
    everything is tried again.
    """
    ensure_super_role(contact_points, timeout)
    _retry_until(
        contact_points, lambda session: _create_tables(session, replication), timeout, Principal.RECOVERY
    )


def migrate_tables(contact_points: list[str], timeout: float = 60.0) -> None:
    """Migrate the tables of an earlier release: add columns, and copy scores to their trades.

    For the streaming driver, which a roll-out starts before `ensure_tables` is called. Raises what that raises.
    """
    _retry_until(contact_points, _migrate_tables, timeout, Principal.STREAM)


def _retry_until(
    contact_points: list[str], change: Callable[[Session], None], timeout: float, principal: Principal
) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            with session_scope(contact_points, principal, keyspace=None) as session:
                change(session)
            return
        except Exception as error:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"cannot create the tables on {', '.join(contact_points)}: {error}; "
                    "check that a majority of the Cassandra nodes is up and normal"
                ) from error
            time.sleep(0.5)


def _create_tables(session: Session, replication: int) -> None:
    datacenter = session.execute("SELECT data_center FROM system.local").one().data_center
    session.execute(
        f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replication}}}"
    )
    existing = {
        row.table_name
        for row in session.execute(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (KEYSPACE,)
        )
    }
    for name, statement in TABLES.items():
        if name not in existing:
            session.execute(statement)
    authorize_in_cassandra(session)
    _update_compaction(session)
    _migrate_tables(session)


def _migrate_tables(session: Session) -> None:
    _add_missing_columns(session)
    if not session.cluster.control_connection.wait_for_schema_agreement(wait_time=20):
        raise KintsugiError("the Cassandra nodes don't agree on the schema")
    backfill_scores(session)


def _add_missing_columns(session: Session) -> None:
    """Add the columns that tables of an earlier release lack; columns are never removed."""
    existing: dict[str, set[str]] = {}
    for row in session.execute(
        "SELECT table_name, column_name FROM system_schema.columns WHERE keyspace_name = %s", (KEYSPACE,)
    ):
        existing.setdefault(row.table_name, set()).add(row.column_name)
    for table, columns in (
        ("trade", MARK_COLUMNS), ("baseline", BASELINE_COLUMNS), ("cancel", CANCEL_COLUMNS),
        ("stream_driver", DRIVER_COLUMNS),
    ):  # fmt: skip
        for name, kind in columns:
            if name not in existing.get(table, {name}):
                session.execute(f"ALTER TABLE {KEYSPACE}.{table} ADD {name} {kind}")


def _update_compaction(session: Session) -> None:
    """Give ``trade`` of an earlier release the compaction of this one; existing files are merged later."""
    row = session.execute(
        "SELECT compaction FROM system_schema.tables WHERE keyspace_name = %s AND table_name = 'trade'",
        (KEYSPACE,),
    ).one()
    current = {**row.compaction, "class": row.compaction["class"].rpartition(".")[2]}
    if not TRADE_COMPACTION.items() <= current.items():
        session.execute(f"ALTER TABLE {KEYSPACE}.trade WITH compaction = {TRADE_COMPACTION}")


def ensure_topics(bootstrap: list[str], replication: int = 3, timeout: float = 60.0) -> None:
    """Create the topics if they are missing, and wait until every partition has a leader.

    ``trades``: six partitions, two in-sync replicas for a write. Dead letters: one partition. An existing topic isn't
    changed. Only tests with one broker use a lower ``replication``. Raises KintsugiError after ``timeout`` seconds.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    deadline = time.monotonic() + timeout
    while True:
        try:
            admin = KafkaAdminClient(
                bootstrap_servers=bootstrap, request_timeout_ms=10_000, **kafka_options(Principal.RECOVERY)
            )
            try:
                _create_topics(admin, replication)
                return
            finally:
                admin.close()
        except KafkaError as error:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"cannot create the topics on {', '.join(bootstrap)}: {error!r}; "
                    "check that enough Kafka brokers are up"
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
    existing = set(admin.list_topics())
    for name, partitions in ((TOPIC, TOPIC_PARTITIONS), (DEAD_LETTER_TOPIC, 1)):
        if name in existing:
            continue
        with suppress(TopicAlreadyExistsError):  # another process was first
            admin.create_topics([NewTopic(name, partitions, replication, topic_configs=common)])
    authorize_in_kafka(admin)
    for topic in admin.describe_topics([TOPIC, DEAD_LETTER_TOPIC]):
        if topic["error_code"] or any(partition["error_code"] for partition in topic["partitions"]):
            raise KafkaConnectionError(f"topic {topic['name']} has a partition without a leader")

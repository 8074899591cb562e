"""The account: every trade in the files of S3 against the topic and every row in Cassandra, by identity and content.

1. List the files; what the ledger says of each decides what may be asked of its trades.
2. Wait (if asked to) until all of them are ingested and the stream has stored what was on the topic by then.
3. Read the files again, recompute identities; note a fingerprint of the columns of each trade.
4. Read every partition that has or should have rows, at LOCAL_QUORUM, and the identities on the topic.
5. Compare. ``lost``: in a file, not in Cassandra. ``extra``: in Cassandra, in no file. ``doubled``: one identity
   in two rows. ``altered``: the same identity with other columns than any file gives it.
6. Ask again about what doesn't fit, for a feed may be running: what is missing may lie before the stream
   (``in_flight``), what is too much may come from a newer file, or from the former content of one (``withdrawn``).
7. On the way, compare all derived tables with what follows from the stored trades (`derived_audit`).

Canaries are left out. Identities lie on disk, divided into buckets (`spill`), so memory grows with the number of
partitions (symbols times quarters of an hour, 130 bytes each), not with that of trades.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kintsugi.core.connections import data_sources, s3_client, store_dsn
from kintsugi.core.errors import ReconciliationError
from kintsugi.core.fleet import Role
from kintsugi.core.settings import BUCKET, KAFKA_PORT, Settings
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import LedgerEntry
from kintsugi.db.stream_record import StreamRecord
from kintsugi.pipeline.cassandra_connection import cassandra_session
from kintsugi.pipeline.cassandra_session import shut_down_after
from kintsugi.pipeline.object_listing import PREFIX
from kintsugi.pipeline.reconcile import topic_identities
from kintsugi.pipeline.reconcile.derived_tables_audit import DerivedAudit
from kintsugi.pipeline.reconcile.reconciliation import FileKey, Reconciliation
from kintsugi.pipeline.reconcile.report import ReconciliationReport
from kintsugi.pipeline.stream_lag import consumer_lag, snapshot
from kintsugi.pipeline.synthetic_trade import PREFIX as CANARY_PREFIX

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client

    from kintsugi.core.data_source import DataSource


BEHIND = 10_000  # messages
PATIENCE_S = 900.0
LOOK_S = 5.0
FILES_AT_ONCE = 200  # that a run of the DAG accounts for
RECENT = timedelta(days=2)


def reconcile(
    settings: Settings,
    *,
    until: float | None = None,
    kafka: bool = True,
    files: Collection[FileKey] | None = None,
    repair: bool = False,
) -> ReconciliationReport:
    """The account of this installation: its trade files, its topic (if ``kafka``), its tables.

    ``until``: seconds to wait for trades that are still under way. ``files``: only these, as (key, ETag). ``repair``:
    write the rows of derived tables that are wrong as they should be. Raises KintsugiError when Cassandra or Postgres
    can't be reached, and whatever S3 and Kafka raise.
    """
    fleet = settings.fleet
    with shut_down_after(cassandra_session(settings)) as session:
        account = reconcile_files(
            s3_client(settings), session, IngestLedger(store_dsn(settings)), until=until, files=files,
            derived=files is None, repair=repair,
            bootstrap=fleet.endpoints(Role.KAFKA, KAFKA_PORT) if kafka else None, sources=data_sources(settings),
        )  # fmt: skip
    account.stream_losses = [str(loss) for loss in StreamRecord(store_dsn(settings)).losses()]
    return account


def reconcile_when_quiet(
    settings: Settings, deadline_s: float = 120.0, files: Collection[FileKey] | None = None
) -> ReconciliationReport:
    """Wait until every file is ingested and the stream has no lag; then `reconcile`, of ``files`` alone if given.

    Waits at most ``deadline_s`` seconds. When the deadline passes, the account is taken all the same: it
    says what is missing.
    """
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        now = snapshot(settings)
        if now.lag == 0 and not now.pending:
            break
        time.sleep(1)
    return reconcile(settings, until=max(5.0, deadline - time.monotonic()), files=files)


def reconcile_ingested(settings: Settings, deadline_s: float) -> ReconciliationReport | None:
    """The account of the files that were ingested lately and never accounted for; None when there are none.

    Files whose trades are all stored are noted in the ledger; the others are left for the next time. While the stream
    is behind it is left alone, for at most PATIENCE_S: reading everything back takes as much of Cassandra as writing
    it. Raises ReconciliationError that names a trade when one is lost or altered, and what `reconcile` raises.
    """
    bootstrap = settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    await_caught_up(lambda: consumer_lag(bootstrap), time.monotonic() + PATIENCE_S)
    entries = due(IngestLedger(store_dsn(settings)).unreconciled(), datetime.now(UTC))
    if not entries:
        return None
    account = reconcile(settings, until=deadline_s, files=[(entry.key, entry.etag) for entry in entries])
    if not account.balanced:
        named = ", ".join([*account.lost, *account.altered][:3])
        raise ReconciliationError(
            f"the account of {len(entries)} files: {account}; {named}; run `make reconcile`"
        )
    return account


def await_caught_up(lag: Callable[[], int | None], deadline: float) -> None:
    """Return when at most BEHIND messages wait for the stream, Kafka doesn't tell, or it is ``deadline``."""
    while (lag() or 0) > BEHIND and time.monotonic() < deadline:
        time.sleep(LOOK_S)


def due(entries: Iterable[LedgerEntry], now: datetime) -> list[LedgerEntry]:
    """The entries that `reconcile_ingested` takes: the newest of the last two days, canaries aside."""
    lately = [
        entry for entry in entries
        if not entry.key.startswith(CANARY_PREFIX) and entry.finished_at and now - entry.finished_at < RECENT
    ]  # fmt: skip
    return sorted(lately, key=lambda entry: entry.started_at)[-FILES_AT_ONCE:]


def reconcile_files(
    s3: S3Client, session: Session, ledger: IngestLedger | None = None, *, bucket: str = BUCKET, prefix: str = PREFIX,
    bootstrap: list[str] | None = None, until: float | None = None, files: Collection[FileKey] | None = None,
    derived: bool = False, repair: bool = False, sources: Sequence[DataSource] | None = None,
) -> ReconciliationReport:  # fmt: skip
    """The account of the trade files below ``prefix``, or of ``files`` alone, given as (key, ETag).

    ``sources``: where the files are; default: ``bucket``, where also the identities lie that the ingest wrote down.
    ``ledger``: for ``produced``, and for what is on its way; it is told of each file that is wholly stored.
    ``bootstrap``: read the topic as well. ``until``: seconds to wait for trades that are under way. Of ``files``
    alone nothing is ``extra`` or ``withdrawn``, and the topic isn't read as a whole. ``derived``: compare the derived
    tables too, which needs whole days, not ``files``; ``repair``: write what is wrong in them. Raises what S3,
    Postgres, Kafka and Cassandra raise: an account that couldn't be taken is no account.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        taking = Reconciliation(stack, s3, session, ledger, bucket, prefix, bootstrap, files, sources)
        taking.wait(started + (until or 0))
        taking.read_files()
        taking.read_cassandra(DerivedAudit(session, repair=repair) if derived else None)
        taking.read_topic()
        taking.compare()
        taking.explain_missing(started + (until or 0))
        taking.explain_extra()
        taking.explain_derived(started + (until or 0))
        taking.tell_ledger()
    taking.account.seconds = round(time.monotonic() - started, 3)
    return taking.account


def identities_in_kafka(bootstrap: list[str]) -> set[bytes]:
    """The identities of all trades on the topic, canaries aside, from its beginning to its present end."""
    return set(topic_identities.identities(bootstrap))

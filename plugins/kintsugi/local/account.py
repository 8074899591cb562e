"""The account of one installation: its S3, its Kafka, its Cassandra, its ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kintsugi.fleet import Role
from kintsugi.settings import KAFKA_PORT, Settings

if TYPE_CHECKING:
    from kintsugi.trades.reconcile import Account


def take(settings: Settings, *, wait_s: float = 0.0) -> Account:
    """Compare every trade in the files with Kafka and Cassandra; trades under way are waited for ``wait_s`` seconds.

    Raises what S3, Postgres and Cassandra raise: an account that couldn't be taken is no account.
    """
    from kintsugi.connections import s3_client, store_dsn
    from kintsugi.trades.cassandra import connect
    from kintsugi.trades.ledger import Ledger
    from kintsugi.trades.reconcile import reconcile

    fleet = settings.fleet
    session = connect([node.address for node in fleet.of(Role.CASSANDRA)])
    try:
        return reconcile(
            s3_client(settings),
            session,
            Ledger(store_dsn(settings)),
            bootstrap=fleet.endpoints(Role.KAFKA, KAFKA_PORT),
            until=wait_s,
        )
    finally:
        session.cluster.shutdown()


def summary(account: Account) -> dict[str, Any]:
    """The account as numbers, with the rejected by reason: what ``build/demo.json`` and ``make reconcile`` say."""
    return {
        "read": account.read,
        "accepted": account.accepted,
        "rejected": sum(account.rejected.values()),
        "rejected_by_reason": dict(account.rejected),
        "duplicates": account.duplicates,
        "produced": account.produced,
        "in_kafka": account.in_kafka,
        "stored": account.stored,
        "lost": account.lost_count,
        "doubled": account.doubled,
        "extra": account.extra_count,
        "altered": account.altered_count,
        "complete": account.complete,
        "named": {"lost": account.lost, "extra": account.extra, "altered": account.altered},
    }

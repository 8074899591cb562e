"""The account of one installation as numbers: what ``build/demo.json`` and ``make reconcile`` say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kintsugi.trades.account import Account


def summary(account: Account) -> dict[str, Any]:
    """Counts, the rejected by reason, and by name (at most 100 each) what is lost, extra or altered."""
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
        "lost_before_kafka": account.lost_before_kafka,
        "in_flight": account.in_flight,
        "withdrawn": account.withdrawn_count,
        "expired": account.expired,
        "complete": account.complete,
        "named": {
            "lost": account.lost,
            "extra": account.extra,
            "altered": account.altered,
            "withdrawn": account.withdrawn,
        },
    }

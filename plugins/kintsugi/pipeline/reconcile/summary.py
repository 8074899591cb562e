"""The account of one installation as numbers: what ``build/demo.json`` and ``make reconcile`` say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kintsugi.pipeline.reconcile.report import ReconciliationReport


def summarize_report(account: ReconciliationReport) -> dict[str, Any]:
    """Counts, the rejected by reason, and by name (at most 100 each) what is lost, extra, altered or wrong."""
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
        "unread": account.unread_count,
        "unreadable": len(account.unreadable),
        "windows": account.derived.get("flow_window", 0),
        "wrong_windows": account.wrong_windows,
        "derived": dict(account.derived),
        "wrong_derived": account.wrong_derived_count,
        "wrong_derived_by_table": dict(account.wrong_derived),
        "repaired": account.repaired,
        "complete": account.complete,
        "named": {
            "lost": account.lost,
            "extra": account.extra,
            "altered": account.altered,
            "withdrawn": account.withdrawn,
            "unread": account.unread,
            "unreadable": account.unreadable[:100],
            "wrong_derived": account.wrong_derived_named,
        },
    }


def has_faults(counted: Mapping[str, Any]) -> bool:
    """Whether a `summarize_report` says that a trade is lost or doubled, in a table or in what is added up."""
    return bool(counted["lost"] or counted["doubled"] or counted["wrong_derived"])


def format_summary(counted: Mapping[str, Any]) -> str:
    """What a run of faults says of a `summarize_report` at its end."""
    return (
        f"lost {counted['lost']}, doubled {counted['doubled']}, wrong derived rows {counted['wrong_derived']}, "
        f"stored {counted['stored']:,}"
    )

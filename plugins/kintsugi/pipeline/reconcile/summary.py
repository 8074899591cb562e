"""The reconciliation report as numbers, for ``build/demo.json`` and ``make reconcile``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kintsugi.pipeline.reconcile.report import ReconciliationReport


def summarize_report(report: ReconciliationReport) -> dict[str, Any]:
    """Return counts, rejected rows by reason, and the names (at most 100 each) of lost, extra, altered, wrong rows."""
    return {
        "read": report.read,
        "accepted": report.accepted,
        "rejected": sum(report.rejected.values()),
        "rejected_by_reason": dict(report.rejected),
        "duplicates": report.duplicates,
        "produced": report.produced,
        "in_kafka": report.in_kafka,
        "stored": report.stored,
        "lost": report.lost_count,
        "doubled": report.doubled,
        "extra": report.extra_count,
        "altered": report.altered_count,
        "lost_before_kafka": report.lost_before_kafka,
        "in_flight": report.in_flight,
        "withdrawn": report.withdrawn_count,
        "expired": report.expired,
        "unread": report.unread_count,
        "unreadable": len(report.unreadable),
        "windows": report.derived.get("flow_window", 0),
        "wrong_windows": report.wrong_windows,
        "derived": dict(report.derived),
        "wrong_derived": report.wrong_derived_count,
        "wrong_derived_by_table": dict(report.wrong_derived),
        "repaired": report.repaired,
        "complete": report.complete,
        "named": {
            "lost": report.lost,
            "extra": report.extra,
            "altered": report.altered,
            "withdrawn": report.withdrawn,
            "unread": report.unread,
            "unreadable": report.unreadable[:100],
            "wrong_derived": report.wrong_derived_named,
        },
    }


def has_faults(summary: Mapping[str, Any]) -> bool:
    """Whether a trade is lost or doubled, or a row of a derived table is wrong."""
    return bool(summary["lost"] or summary["doubled"] or summary["wrong_derived"])


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format the counts that a run of fault injections prints at its end."""
    return (
        f"lost {summary['lost']}, doubled {summary['doubled']}, wrong derived rows {summary['wrong_derived']}, "
        f"stored {summary['stored']:,}"
    )

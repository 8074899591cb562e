"""``build/bench.json``: the figures for programs, from the results of the sections. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.throughput.figures import compute_ratio

AIMS = {
    "end_to_end_trades_per_s": 3000.0,
    "end_to_end_to_ceiling": 0.4,
    "end_to_end_to_naive": 1.5,
    "ingest_to_kafka_python": 0.5,
    "drain_to_rival": 1.0,
}
RATES = (
    "ingest_rows_per_s", "ingest_kafka_python_rows_per_s", "ingest_naive_rows_per_s", "end_to_end_trades_per_s",
    "ceiling_trades_per_s", "naive_trades_per_s", "drain_trades_per_s", "rival_rows_per_s",
    "rival_defaults_rows_per_s",
)  # fmt: skip

Sections = Mapping[str, Mapping[str, Any]]


def build_document(sections: Sections, machine: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The whole report; a figure whose section was not run is None."""
    flat: dict[str, Any] = {}
    for section in sections.values():
        flat.update(section)
    figures: dict[str, Any] = {name: flat.get(name) for name in RATES}
    figures |= {name: flat.get(name) for name in ("latency_ms", "latency_s3_ms", "spike", "growth")}
    ours = figures["end_to_end_trades_per_s"]
    figures["ratios"] = {
        "ingest_to_kafka_python": compute_ratio(
            figures["ingest_rows_per_s"], figures["ingest_kafka_python_rows_per_s"]
        ),
        "ingest_to_naive": compute_ratio(figures["ingest_rows_per_s"], figures["ingest_naive_rows_per_s"]),
        "end_to_end_to_ceiling": compute_ratio(ours, figures["ceiling_trades_per_s"]),
        "end_to_end_to_naive": compute_ratio(ours, figures["naive_trades_per_s"]),
        "drain_to_rival": compute_ratio(figures["drain_trades_per_s"], figures["rival_rows_per_s"]),
        "naive_to_ceiling": compute_ratio(figures["naive_trades_per_s"], figures["ceiling_trades_per_s"]),
    }
    figures["lost"] = sum(count_lost(section) for section in sections.values())
    figures["doubled"] = sum(section.get("doubled", 0) for section in sections.values())
    figures["aims"] = judge_aims(figures)
    return {
        **figures,
        "machine": dict(machine),
        "run": dict(run),
        "sections": {k: dict(v) for k, v in sections.items()},
    }


def count_lost(section: Mapping[str, Any]) -> int:
    """Return the trades that a section could not read back."""
    return int(section.get("lost", 0)) + int(section.get("spike", {}).get("lost", 0))


def judge_aims(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For each aim of the project: what was wanted, what was measured (or None), whether it was met."""
    found = {}
    for name, wanted in AIMS.items():
        measured = figures.get(name, figures["ratios"].get(name))
        found[name] = {
            "wanted": wanted,
            "measured": measured,
            "met": measured is not None and measured >= wanted,
        }
    return found


def format_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The table for the screen: (figure, value, remark)."""
    ratios: Mapping[str, Any] = report["ratios"]
    table: list[tuple[str, str, str]] = []
    remarks = {
        "ingest_rows_per_s": _format_ratio(ratios["ingest_to_kafka_python"], "kafka-python itself"),
        "ingest_kafka_python_rows_per_s": "kafka-python, the same bytes",
        "ingest_naive_rows_per_s": "a flush per row",
        "end_to_end_trades_per_s": "S3 → readable at LOCAL_QUORUM",
        "ceiling_trades_per_s": _format_ratio(
            ratios["end_to_end_to_ceiling"], "the ceiling reached end to end"
        ),
        "naive_trades_per_s": _format_ratio(
            ratios["end_to_end_to_naive"], "the naive design reached end to end"
        ),
        "drain_trades_per_s": _format_ratio(ratios["drain_to_rival"], "the rival, which only stores"),
        "rival_rows_per_s": "Spark Cassandra Connector, best of its sweep",
        "rival_defaults_rows_per_s": "the same with the connector's defaults",
    }
    table += [(name, f"{report[name]:,}", remarks[name]) for name in RATES if report[name] is not None]
    for name in ("latency_ms", "latency_s3_ms"):
        shown = " / ".join(f"{value:,.0f}" for value in (report[name] or {}).values())
        table += [(name, shown, "p50 / p95 / p99")] if shown else []
    if report["spike"]:
        spike = report["spike"]
        table.append(
            ("spike", f"{spike['trades']:,}", f"lost {spike['lost']}, lag gone after {spike['drain_s']} s")
        )
    table += [
        (f"growth {p['level']}x", f"{p['rows']:,} rows", f"{p['cpu_s_per_trade'] * 1e6:,.0f} µs a trade")
        for p in report["growth"] or ()
    ]
    return table


def _format_ratio(value: float | None, of: str) -> str:
    return "" if value is None else f"{value} of {of}" if value < 1 else f"{value} times {of}"

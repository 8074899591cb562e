"""The bench as a picture: rates, the sweep, load over time, growth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]
BARS = (
    ("naive_trades_per_s", "naive\ninsert"),
    ("end_to_end_trades_per_s", "end to end"),
    ("ceiling_trades_per_s", "ceiling"),
)
BLUE, GREY, RED = "#2f6690", "#9aa5b1", "#c8553d"


def draw_report(report: Report, path: Path) -> None:
    """Write the PNG; a panel whose section was not run says so."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), dpi=110, layout="constrained")
    panels: tuple[tuple[str, Callable[[Any, Report], None]], ...] = (
        ("Trades a second", _draw_rates), ("Sweep of the bare driver", _draw_sweep), ("End to end", _draw_end_to_end),
        ("Latency at 1000 a second", _draw_latency), ("Spike: lag", _draw_spike), ("Growth", _draw_growth),
    )  # fmt: skip
    for number, (title, panel) in enumerate(panels, start=1):
        axes = figure.add_subplot(2, 3, number)
        axes.set_title(title, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        try:
            panel(axes, report)
        except (KeyError, TypeError):
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color=GREY)
    machine = report["machine"]
    figure.suptitle(
        f"Kintsugi on {machine['cores']} cores: nine nodes and Airflow, replication 3, LOCAL_QUORUM",
        fontsize=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_rates(axes: Any, report: Report) -> None:
    values = [report[name] + 0 for name, _ in BARS]
    shown = axes.bar([label for _, label in BARS], values, color=[GREY, BLUE, GREY])
    axes.bar_label(shown, labels=[f"{value:,}" for value in values])


def _draw_sweep(axes: Any, report: Report) -> None:
    for name, color in (("ceiling", BLUE), ("naive", GREY)):
        swept = sorted(report["sections"][name]["sweep"], key=lambda tried: float(tried["rows_per_s"]))
        axes.plot([t["batch"] * t["in_flight"] * t["processes"] for t in swept],
                  [t["rows_per_s"] for t in swept], "o", color=color, label=name)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("rows in flight")
    axes.set_ylabel("rows/s")
    axes.legend(frameon=False)


def _draw_end_to_end(axes: Any, report: Report) -> None:
    series = report["sections"]["end_to_end"]["series"]
    axes.plot([at for at, _ in series], [stored for _, stored in series], color=BLUE)
    axes.set_xlabel("s")
    axes.set_ylabel("trades stored")


def _draw_latency(axes: Any, report: Report) -> None:
    names = list(report["latency_ms"])
    for offset, key, color in ((-0.2, "latency_ms", BLUE), (0.2, "latency_s3_ms", GREY)):
        places = [number + offset for number in range(len(names))]
        label = "from Kafka" if key == "latency_ms" else "from S3"
        shown = axes.bar(places, [report[key][name] for name in names], 0.38, color=color, label=label)
        axes.bar_label(shown, fmt="{:,.0f}", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("ms")
    axes.legend(frameon=False)


def _draw_spike(axes: Any, report: Report) -> None:
    series = report["sections"]["spike"]["series"]
    axes.plot([at for at, _ in series], [lag for _, lag in series], color=RED)
    axes.set_xlabel("s since the spike began")
    axes.set_ylabel("messages")


def _draw_growth(axes: Any, report: Report) -> None:
    points = report["growth"]
    axes.plot([p["rows"] for p in points], [p["cpu_s_per_trade"] * 1e6 for p in points], "o", color=BLUE)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows and partitions")
    axes.set_ylabel("µs of processor time a trade")

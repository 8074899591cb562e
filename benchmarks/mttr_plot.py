"""``build/mttr.png``: every recovery as a point, by role and fault, with the hand starts beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mttr_figures import FAULTS
from benchmarks.throughput.plot import BLUE, GREY, RED
from kintsugi.core.fleet import Role

COLOURS = {"reset": (BLUE, -0.15), "silent": (RED, 0.15)}  # and where beside the middle of its fault
SPREAD = 0.18


def draw_repairs(report: Mapping[str, Any], path: Path) -> None:
    """Write the PNG: a panel a role, seconds until ready; the title counts recoveries that never got there."""
    from matplotlib.figure import Figure

    roles = [role for role in Role if role.value in report["summary"]]
    wide, high = min(2, max(1, len(roles))), (len(roles) + 1) // 2
    figure = Figure(figsize=(6.0 * max(wide, 1.5), 3.75 * max(1, high)), dpi=110, layout="constrained")
    for number, role in enumerate(roles, start=1):
        axes = figure.add_subplot(high, wide, number)
        _draw_strip(axes, [row for row in report["repairs"] if row["role"] == role],
               [one for one in report["by_hand"] if one["role"] == role])  # fmt: skip
        axes.set_title(_format_title(role, report), loc="left", fontsize=11)
    figure.suptitle(
        f"Seconds until redundant on {report['machine']}, {report['trades_per_s']:.0f} trades a second",
        fontsize=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _format_title(role: Role, report: Mapping[str, Any]) -> str:
    of = report["summary"][role.value]
    never = of["n"] - of["repair"]["n"]
    return f"{role.value}, n {of['n']}" + (f", {never} not redundant in time" if never else "")


def _draw_strip(axes: Any, rows: Sequence[Mapping[str, Any]], started: Sequence[Mapping[str, Any]]) -> None:
    for mode, (colour, beside) in COLOURS.items():
        places, values = _place_points([row for row in rows if row["mode"] == mode], "repair_s", beside)
        axes.plot(places, values, "o", color=colour, alpha=0.8, label=mode)
    places, values = _place_points(started, "by_hand_s", 0.0)
    axes.plot(places, values, "_", color=GREY, markersize=30, markeredgewidth=2, label="by hand")
    axes.set_xticks(range(len(FAULTS)), [fault.replace("_", " ") for fault in FAULTS])
    axes.set_xlim(-0.5, len(FAULTS) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _place_points(
    rows: Sequence[Mapping[str, Any]], name: str, beside: float
) -> tuple[list[float], list[float]]:
    """Return the places of the rows, side by side within their fault, and their values; without empty rows."""
    places, values = [], []
    for number, fault in enumerate(FAULTS):
        measured = [row[name] for row in rows if row["fault"] == fault and row[name] is not None]
        for place, value in enumerate(measured):
            share = (place + 0.5) / len(measured) - 0.5 if beside else 0.0
            places.append(number + beside + SPREAD * share)
            values.append(value)
    return places, values

"""The row of a scenario in the report of the fault matrix, from what was observed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.live_kills import Announcement, Death, find_live_kills, find_unexplained_deaths
from benchmarks.scenarios import (
    ExpectedPages,
    IncidentContent,
    Scenario,
    judge_kills,
    judge_pages,
    judge_scenario,
)
from kintsugi.chaos.experiment import night_figures
from kintsugi.chaos.registry import FAULTS
from kintsugi.core.incident import Incident

RECONCILE_DEADLINE_S = 150.0
NOT_BEGUN = "not begun"
PATTERN_PAGES = ("page/unfounded/", "page/pattern/", "page/flapping/", "page/crash")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was observed of a scenario until its end.

    ``incidents``: of its victims and of bystanders. ``healed``: all serve again and nothing is open. ``counted``: the
    reconciliation of the trades, empty without one. ``pages``: text by key. ``deaths``: what the recorder observed,
    None if it didn't run. ``troubles``: what went wrong with the experiment itself.
    """

    incidents: Sequence[Incident]
    healed: bool
    counted: Mapping[str, Any]
    pages: Mapping[str, str]
    deaths: Sequence[Death] | None
    announcements: Sequence[Announcement] = ()
    troubles: Sequence[str] = ()


def empty_row(scenario: Scenario) -> Row:
    """Return the row of a scenario of which nothing is known."""
    return {
        "fault": scenario.name,
        "what": FAULTS[scenario.fault].what,
        "node": ", ".join(scenario.nodes),
        "verdict": [],
        "action": [],
        "phases": {},
        "repairs": [],
        "outcome": NOT_BEGUN,
        "as_designed": False,
        "healed": False,
        "live_kills": None,
        "deaths": [],
        "pages": [],
        "open": [],
        "lost": None,
        "doubled": None,
        "stored": None,
    }


def row_of(scenario: Scenario, seen: Seen) -> Row:
    """Return the row of a scenario; times in seconds since the fault."""
    contents = summarize_incidents(seen.incidents)
    own = [one for one in seen.incidents if one.node in scenario.nodes]
    about = pages_about(scenario, seen.pages)
    allowed = scenario.nodes if scenario.may_kill_serving else ()
    killed = find_unexplained_deaths(seen.deaths or (), seen.announcements)
    live = None if seen.deaths is None else find_live_kills(seen.deaths, seen.announcements, allowed)
    why = first_reason(
        f"a live node was killed: {live[0]}" if live else None,
        judge_kills(scenario, [death.node for death in killed]),
        *seen.troubles,
        judge_scenario(scenario, contents, seen.healed),
        judge_pages(scenario, about),
        judge_reconciliation(seen.counted),
    )
    return {
        **empty_row(scenario),
        "verdict": sorted({verdict for one in contents for verdict in one.verdicts}),
        "action": [action for one in contents for action in one.actions],
        "phases": find_slowest(own).get("phases", {}),
        "repairs": [night_figures(one) for one in own],
        "outcome": "as designed" if why is None else why,
        "as_designed": why is None,
        "healed": seen.healed,
        "live_kills": None if live is None else [str(death) for death in live],
        "deaths": [str(death) for death in seen.deaths or ()],
        "pages": about,
        "open": [one.id for one in seen.incidents if one.closed_at is None],
        "lost": seen.counted.get("lost"),
        "doubled": seen.counted.get("doubled"),
        "stored": seen.counted.get("stored"),
    }


def pages_about(scenario: Scenario, pages: Mapping[str, str]) -> list[str]:
    """Return the pages (text by key) that name a victim of the scenario.

    A page about a pattern of several incidents does not count, unless the scenario is about a pattern: the run itself
    hits the same nodes again and again.
    """
    return sorted(
        text
        for key, text in pages.items()
        if any(name in text for name in scenario.nodes)
        and (scenario.pages is ExpectedPages.MUST or not key.startswith(PATTERN_PAGES))
    )


def first_reason(*reasons: str | None) -> str | None:
    """Return the first reason that is not None."""
    return next((reason for reason in reasons if reason is not None), None)


def judge_reconciliation(counted: Mapping[str, Any]) -> str | None:
    """Return why the reconciliation doesn't show a working pipeline, None when it does: a stalled one loses nothing."""
    if not counted:
        return "the reconciliation failed"
    if waiting := counted["in_flight"]:
        return f"{waiting:,} trades had not come through {RECONCILE_DEADLINE_S:.0f} s after all was well"
    return None


def summarize_incidents(incidents: Sequence[Incident]) -> list[IncidentContent]:
    """Return the content of each incident, as ``benchmarks.scenarios.judge_scenario`` takes it."""
    return [
        IncidentContent(
            one.node,
            [str(entry.data["verdict"]) for entry in one.entries if "verdict" in entry.data],
            [str(action) for action in one.attempts()],
            "\n".join(entry.message for entry in one.entries),
        )
        for one in incidents
    ]


def find_slowest(incidents: Sequence[Incident]) -> dict[str, Any]:
    """Return the figures of the recovery that took longest; empty without one."""
    rows = [night_figures(one) for one in incidents]
    return max(rows, key=lambda row: row["repaired_s"] or 0.0, default={})

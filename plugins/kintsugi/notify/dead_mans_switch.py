"""The dead man's switch: does anybody still watch? Pure, and the ping to somebody outside.

Something is unwatched when

1. its heartbeat is older than SILENT and nobody repairs it (a node under repair has no watch: its run goes on
   after the sensor), or
2. its watch is paused (the trigger may live on, but no repair would start), or
3. a component of Airflow has not been healthy for UNHEALTHY, or the store has not answered for that long.

A node in maintenance isn't expected to be watched; nor is one that never was, as after a first `make up`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kintsugi.core.connections import connection
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import watch_of
from kintsugi.notify.paging_rules import Page
from kintsugi.notify.runbooks import HEARTBEAT, runbook_link

SILENT = timedelta(seconds=90)
UNHEALTHY = timedelta(minutes=3)
REMIND = timedelta(hours=6)
CONNECTION = "kintsugi_heartbeat"
PING_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Silence:
    """``name`` is unwatched since ``since`` (UTC), as far as is known for the reason ``why``."""

    name: str
    since: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Watching:
    """What is known of the watch at ``now``, by the store's clock (UTC).

    ``beats``: last heartbeat by name. ``excused``: names that are under repair or in maintenance. ``paused``: names
    whose watch is paused. ``unhealthy``: Airflow's components that aren't well, with the time since.
    """

    now: datetime
    beats: Mapping[str, datetime]
    excused: Collection[str] = ()
    paused: Collection[str] = ()
    unhealthy: Mapping[str, datetime] = field(default_factory=dict)


def silences(watching: Watching) -> list[Silence]:
    """Everything that is unwatched, by name."""
    found = [
        Silence(f"Airflow's {part}", since, "it isn't healthy")
        for part, since in sorted(watching.unhealthy.items())
        if watching.now - since >= UNHEALTHY
    ]
    cause = "see Airflow's components" if found else "is the triggerer stuck?"
    for name, at in sorted(watching.beats.items()):
        if name in watching.excused:
            continue
        if name in watching.paused:
            found.append(Silence(name, at, f"its DAG {watch_of(name)} is paused"))
        elif watching.now - at > SILENT:
            found.append(Silence(name, at, f"no heartbeat of {watch_of(name)} came; {cause}"))
    return found


@dataclass(slots=True)
class DeadMansSwitch:
    """Decides when to call: once what is unwatched has stayed the same for two looks, and then every REMIND."""

    _before: frozenset[str] = frozenset()

    def observe(self, found: Collection[Silence], now: datetime) -> Page | None:
        """The page that is due, with a key that is the same for the same silence; None when all is watched."""
        names = frozenset(silence.name for silence in found)
        settled, self._before = names == self._before, names
        if not found or not settled:
            return None
        since = min(silence.since for silence in found)
        reminder = int((now - since) / REMIND)
        who = ",".join(sorted(names))
        lines = [f"- {silence.name}: {silence.why} (since {silence.since:%H:%M:%S} UTC)" for silence in found]
        return Page(
            f"page/unwatched/{who}/{_hour(found)}/{reminder}",
            f"Nobody watches {_shortly(names)}: nothing would be healed",
            "\n".join([*lines, "Look at `make status`; unpause the DAGs, or restart what isn't healthy."]),
        )


def _hour(found: Collection[Silence]) -> str:
    # To the minute only: a watch whose last heartbeats trickle in is still the same silence.
    return f"{min(silence.since for silence in found):%Y%m%dT%H%M}"


def _shortly(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed) if len(listed) <= 3 else f"{', '.join(listed[:2])} and {len(listed) - 2} more"


def ping(well: bool, text: str = "") -> bool:
    """Tell the service outside (healthchecks.io and its like) that all is watched, or that it isn't.

    The URL stands as ``host`` in the connection ``kintsugi_heartbeat``; without one nothing is sent and the answer is
    False. A failure goes to ``<URL>/fail`` with ``text`` and the link of its runbook. Silence is what alarms: when this
    machine is gone, no ping comes. Raises KintsugiError, without the URL (it is a secret), when the service refuses it.
    """
    import httpx

    found = connection(CONNECTION)
    if not found:
        return False
    url = str(found.get("host") or "").rstrip("/")
    content = text if well else f"{text}\nRunbook: {runbook_link(HEARTBEAT)}"
    try:
        answer = httpx.post(
            url if well else f"{url}/fail", content=content.encode(), timeout=PING_TIMEOUT_S, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise KintsugiError(
            f"the heartbeat service of the connection {CONNECTION} can't be reached ({type(error).__name__})"
        ) from None
    if answer.is_error:
        raise KintsugiError(
            f"the heartbeat service of the connection {CONNECTION} answers {answer.status_code}; is its URL right?"
        )
    return True

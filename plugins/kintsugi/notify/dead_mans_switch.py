"""The dead man's switch: finds what is not watched (pure), and pings a service outside of this machine.

A node or the flow is unwatched when

1. its heartbeat is older than SILENT and no recovery of it is running (its run has left the sensor then), or
2. its watch is paused (the trigger may still run, but no recovery would start), or
3. a component of Airflow has not been healthy for UNHEALTHY, or the store has not answered for that long.

A node in maintenance is not expected to be watched. Neither is a node that was never watched, as after a first
`make up`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kintsugi.core.connections import connection
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import watch_dag_id
from kintsugi.notify.paging_rules import Page
from kintsugi.notify.runbooks import HEARTBEAT, runbook_link

SILENT = timedelta(seconds=90)
UNHEALTHY = timedelta(minutes=3)
REMIND = timedelta(hours=6)
CONNECTION = "kintsugi_heartbeat"
PING_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Silence:
    """``name`` has been unwatched since ``since`` (UTC); ``why`` is the probable reason."""

    name: str
    since: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Watching:
    """The state of all watches at ``now``, by the store's clock (UTC).

    ``beats``: last heartbeat by name. ``excused``: names that are being recovered or in maintenance. ``paused``: names
    whose watch is paused. ``unhealthy``: unhealthy components of Airflow, with the time since.
    """

    now: datetime
    beats: Mapping[str, datetime]
    excused: Collection[str] = ()
    paused: Collection[str] = ()
    unhealthy: Mapping[str, datetime] = field(default_factory=dict)


def find_silences(watching: Watching) -> list[Silence]:
    """Everything that is unwatched, by name."""
    silences = [
        Silence(f"Airflow's {part}", since, "it is not healthy")
        for part, since in sorted(watching.unhealthy.items())
        if watching.now - since >= UNHEALTHY
    ]
    cause = "see Airflow's components" if silences else "is the triggerer stuck?"
    for name, at in sorted(watching.beats.items()):
        if name in watching.excused:
            continue
        if name in watching.paused:
            silences.append(Silence(name, at, f"its DAG {watch_dag_id(name)} is paused"))
        elif watching.now - at > SILENT:
            silences.append(Silence(name, at, f"no heartbeat of {watch_dag_id(name)} arrived; {cause}"))
    return silences


@dataclass(slots=True)
class DeadMansSwitch:
    """Decides when to page: when two looks in a row find the same silences, and then every REMIND."""

    _before: frozenset[str] = frozenset()

    def observe(self, silences: Collection[Silence], now: datetime) -> Page | None:
        """The page that is due, with the same key for the same silence; None when everything is watched."""
        names = frozenset(silence.name for silence in silences)
        unchanged, self._before = names == self._before, names
        if not silences or not unchanged:
            return None
        since = min(silence.since for silence in silences)
        reminder = int((now - since) / REMIND)
        who = ",".join(sorted(names))
        lines = [
            f"- {silence.name}: {silence.why} (since {silence.since:%H:%M:%S} UTC)" for silence in silences
        ]
        return Page(
            f"page/unwatched/{who}/{_format_start(silences)}/{reminder}",
            f"Nobody watches {_join_names(names)}: a failure there is not recovered",
            "\n".join(
                [
                    *lines,
                    "Run `make status`. Unpause the DAGs, or restart the components that are not healthy.",
                ]
            ),
        )


def _format_start(silences: Collection[Silence]) -> str:
    # Only to the minute: late heartbeats of the same watch must not make it a new silence.
    return f"{min(silence.since for silence in silences):%Y%m%dT%H%M}"


def _join_names(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed) if len(listed) <= 3 else f"{', '.join(listed[:2])} and {len(listed) - 2} more"


def send_ping(well: bool, text: str = "") -> bool:
    """Ping the outside service (such as healthchecks.io); ``well`` says whether everything is watched.

    The URL is the ``host`` of the connection ``kintsugi_heartbeat``. Without that connection nothing is sent and the
    result is False. A failure goes to ``<URL>/fail`` with ``text`` and the link of its runbook. The service alerts when
    no ping arrives, so it also alerts when this machine is down. Raises KintsugiError when the service does not accept
    the ping; the error does not contain the URL, which is a secret.
    """
    import httpx

    defined = connection(CONNECTION)
    if not defined:
        return False
    url = str(defined.get("host") or "").rstrip("/")
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
            f"the heartbeat service of the connection {CONNECTION} answers {answer.status_code}; check its URL"
        )
    return True

"""A made-up pipeline for the page: the page's real application on a real store, the rest as the test says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from fastapi import Header, HTTPException
from psycopg.types.json import Jsonb

from kintsugi.core.fleet import load_fleet
from kintsugi.core.observation import ProbeResult, Symptom
from kintsugi.core.settings import Settings
from kintsugi.db.dashboard import Listing
from kintsugi.db.flow_samples import FlowSample, FlowSamples
from kintsugi.db.store import Store
from kintsugi.pipeline.ingest.intake_report import FileNote, IntakeReport
from kintsugi.web.actions import Request
from kintsugi.web.airflow_api import AirflowReply as Done
from kintsugi.web.app import WebContext, create_app
from kintsugi.web.polling_cache import Hub, PolledSource
from kintsugi.web.sources import (
    AirflowSnapshot,
    Files,
    NodeSnapshot,
    ReleasesSnapshot,
    StreamSnapshot,
    Unusual,
    UnusualDay,
)

STEPS: tuple[tuple[str, str, float, dict[str, str]], ...] = (
    ("confirm", "service and ssh refuse: the host is lost", 1.5, {"verdict": "host_lost"}),
    ("guard", "the guards allow: rebuild, the volume is gone with the host", 0.6, {"action": "rebuild"}),
    ("decide", "rebuild: the volume is gone with the host", 0.5, {"chosen": "rebuild"}),
    ("fence", "nothing of the old node lives", 0.7, {}),
    ("plan", "2 to replace: node and volume, nothing else", 2.0, {}),
    ("provision", "applied the judged plan", 1.8, {}),
    ("configure", "Ansible changed 14 of 22 tasks", 9.0, {}),
    ("rejoin", "in sync on every partition", 14.0, {}),
    ("verify", "leads a partition and took a record at acks=all", 2.2, {}),
    ("canary", "the canary trade came through in 1.9 s", 2.4, {"mark": "end"}),
)


@dataclass(frozen=True)
class Person:
    """A signed-in user of the made-up Airflow."""

    name: str

    def get_id(self) -> str:
        return self.name

    def get_name(self) -> str:
        return self.name


class MadeUpGate:
    """Reads the user from the header ``x-user``; only ``olga`` and ``otto`` may act."""

    def __init__(self, default: str | None = None) -> None:
        def reader(x_user: str | None = Header(default)) -> Person:
            if x_user is None:
                raise HTTPException(401, "Not authenticated")
            return Person(x_user)

        reader.__annotations__ = {"x_user": str | None, "return": Person}
        self.reader: Callable[..., Any] = reader

    def may(self, user: Person, wanted: Request) -> bool:
        return user.name in ("olga", "otto")


@dataclass
class World:
    """What the made-up sources answer; tests change it, or put an error in a source's place."""

    nodes: dict[str, NodeSnapshot] = field(default_factory=dict)
    files: Files = field(default_factory=lambda: Files(0, None))
    unusual: UnusualDay = field(default_factory=lambda: UnusualDay(None, 0, ()))
    airflow: AirflowSnapshot = field(default_factory=lambda: AirflowSnapshot(frozenset(), (), (), None))
    releases: ReleasesSnapshot = field(default_factory=lambda: ReleasesSnapshot({}, None, {}))
    errors: dict[str, Exception] = field(default_factory=dict)
    sent: list[Request] = field(default_factory=list)
    answer: Done = field(default_factory=lambda: Done(200, "manual__1"))

    def __post_init__(self) -> None:
        for node in load_fleet():
            self.nodes.setdefault(node.name, NodeSnapshot(ProbeResult.OK, "answers", None, None))

    def down(self, name: str, since: datetime) -> None:
        """Let a node be found down."""
        self.nodes[name] = NodeSnapshot(ProbeResult.REFUSED, "refused", Symptom.DOWN, since)

    def sources(self, dsn: str) -> dict[str, PolledSource]:
        def of(name: str, value: Callable[[], Any]) -> PolledSource:
            async def ask() -> Any:
                if name in self.errors:
                    raise self.errors[name]
                return value()

            return PolledSource(ask, every_s=0.2, within_s=1.0)

        samples = FlowSamples(dsn)
        hours = timedelta(hours=6)
        return {
            "nodes": of("nodes", lambda: dict(self.nodes)),
            "store": of("store", lambda: Listing(dsn).read_summary()),
            "flow": of(
                "flow", lambda: StreamSnapshot(tuple(samples.since(datetime.now(UTC) - hours)), live=True)
            ),
            "files": of("files", lambda: self.files),
            "unusual": of("unusual", lambda: self.unusual),
            "releases": of("releases", lambda: self.releases),
            "airflow": of("airflow", lambda: self.airflow),
        }


def made_up_app(settings: Settings, dsn: str, world: World, user: str | None = None) -> Any:
    """The page on ``world``; ``user``: who everybody is that says nothing."""

    async def send(wanted: Request, headers: Any) -> Done:
        world.sent.append(wanted)
        return world.answer

    return create_app(
        WebContext(
            settings=settings,
            gate=MadeUpGate(user),
            hub=Hub(world.sources(dsn)),
            send=send,
            listing=lambda: Listing(dsn),
            store=lambda: Store(dsn),
        )
    )


def incidents(store: Store, count: int, *, now: datetime | None = None, seed: int = 1) -> None:
    """Write ``count`` closed incidents with whole journals, the newest an hour ago and one each two hours before."""
    now, dice, fleet = now or datetime.now(UTC), random.Random(seed), list(load_fleet())
    with store.transaction() as connection, connection.cursor() as cursor:
        for number in range(count):
            node = dice.choice(fleet)
            t0 = now - timedelta(hours=1 + 2 * number, seconds=dice.uniform(0, 900))
            detected = t0 + timedelta(seconds=dice.uniform(2.2, 3.8))
            name, at, entries = f"{node.name}-{t0:%Y%m%dT%H%M%SZ}-{number:04x}", detected, []
            for step, message, seconds, data in STEPS:
                at += timedelta(seconds=seconds * dice.uniform(0.6, 1.6))
                entries.append((name, at, step, message, Jsonb(data)))
            outcome = dice.choices(("healed", "false_alarm", "failed"), (93, 5, 2))[0]
            reason = {
                "healed": STEPS[8][1],
                "false_alarm": "the node answers again",
                "failed": "rejoin timed out",
            }
            cursor.execute(
                "INSERT INTO incident (id, node, role, holder, opened_at, t0, first_failed_at, detected_at,"
                " redundant_at, consistent_at, closed_at, outcome, reason)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (
                    *(name, node.name, node.role.value, f"watch_{node.name}/scheduled__{number}", detected),
                    *(t0, t0 + timedelta(seconds=0.4), detected),
                    *((at, at) if outcome == "healed" else (None, None)),
                    *(at, outcome, reason[outcome]),
                ),
            )
            cursor.executemany(
                "INSERT INTO incident_entry (incident_id, at, step, message, data) VALUES (%s, %s, %s, %s, %s)",
                entries,
            )
            if number < 20:
                cursor.execute(
                    "INSERT INTO fault (node, kind, mode, run, t0) VALUES (%s, 'volume_lost', 'reset', %s, %s)",
                    (node.name, f"scheduled__{number}", t0),
                )


def begin_repair(store: Store, node: str, steps: int = 4, *, seconds_ago: float = 15.0) -> str:
    """Open an incident of ``node`` and take it through its first ``steps`` steps; returns its id."""
    now, role = datetime.now(UTC), load_fleet().node(node).role
    lease = store.acquire_lease(node, f"watch_{node}/now", 300)
    t0 = now - timedelta(seconds=seconds_ago)
    incident = store.open_incident(
        node,
        lease.token,
        role=role,
        holder=f"watch_{node}/now",
        first_failed_at=t0,
        detected_at=t0 + timedelta(seconds=3),
    )
    for step, message, _, data in STEPS[:steps]:
        store.append_entry(incident.id, lease.token, step, message, data)
    return incident.id


def day_of_flow(dsn: str, *, now: datetime | None = None, hours: float = 6.0) -> None:
    """Write samples with an intraday shape, a burst, and a dip where a node failed."""
    now, dice, samples = now or datetime.now(UTC), random.Random(2), FlowSamples(dsn)
    produced = committed = 1_000_000.0
    with samples.transaction() as connection, connection.cursor() as cursor:
        for number in range(int(hours * 240)):
            at = now - timedelta(hours=hours) + timedelta(seconds=15 * (number + 1))
            hour = number / 240
            flow = 300 + 120 * abs(hour - 3) + dice.uniform(-40, 40) + (900 if 2.0 < hour < 2.06 else 0)
            produced += 15 * flow
            away = 4.4 < hour < 4.413
            committed = committed if away else min(produced - flow, committed + 15 * 1400)
            cursor.execute(
                "INSERT INTO flow_sample VALUES (%s, %s, %s, %s)",
                (at, not away, int(committed), int(produced)),
            )
        cursor.execute(
            "UPDATE flow_sample SET committed = produced WHERE at > %s", (now - timedelta(minutes=2),)
        )


def intake(now: datetime | None = None) -> Files:
    """A report with a failed file, one that lost rows, a missing day and a checksum."""
    now = now or datetime.now(UTC)
    name = "trades/2024-10-08/UnderlyingOptionsTradesCalcs_2024-10-08"
    failed = FileNote(
        f"{name}_2.csv.zip", "it is a broken zip archive; deliver it again", now - timedelta(minutes=9)
    )
    lost = FileNote(
        "vendor/UnderlyingOptionsTradesCalcs_2024-10-09.csv",
        "2,101 of 28,114 rows were rejected (time 2,101)", now - timedelta(hours=5),
        bucket="acme-market-data", share=0.07,
    )  # fmt: skip
    report = IntakeReport(
        now, waiting=2, oldest=f"{name}_3.csv", oldest_at=now - timedelta(minutes=1), waits_since=now, failed_count=1,
        failed=[failed], rejected=[lost], rejected_share=0.0312, missing=["eod 2024-10-09"],
        not_taken_count=2, not_taken=[f"{name}.csv.md5", "a/UnderlyingOptionsTrades_2024-10-08.csv"],
    )  # fmt: skip
    return Files(report.waiting, report.oldest, report)


def unusual_day() -> UnusualDay:
    """A dozen unusual trades."""
    dice, at = random.Random(3), datetime.now(UTC)
    rows = [
        Unusual(
            symbol,
            at,
            f"{symbol} 2026-12-18 {strike} {kind}",
            signal,
            dice.uniform(4, 19),
            dice.randrange(200, 9000),
            dice.uniform(5e4, 8e6),
            dice.choice(("buy", "sell")),
        )
        for symbol, strike, kind, signal in (
            ("AAPL", 250, "C", "high_volume"),
            ("^SPX", 6100, "P", "iv_jump"),
            ("NVDA", 190, "C", "imbalance"),
            ("TSLA", 420, "C", "high_volume"),
            ("XOM", 120, "P", "aggressor"),
            ("AMD", 240, "C", "high_volume"),
        )
    ]
    return UnusualDay(date(2026, 11, 20), 1312, tuple(sorted(rows, key=lambda row: -row.score)))


def sample_at(seconds_ago: float, produced: int, committed: int, *, running: bool = True) -> FlowSample:
    return FlowSample(NOW - timedelta(seconds=seconds_ago), running, committed, produced)


NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

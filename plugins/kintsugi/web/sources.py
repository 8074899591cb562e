"""The sources of the page: nodes, store, stream, S3, Cassandra, Airflow. Each function raises its source's errors.

This module only reads; `health` decides what the readings mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from kintsugi.core.certificates import Principal
from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Fleet
from kintsugi.core.observation import ProbeResult, Symptom
from kintsugi.core.settings import Settings
from kintsugi.db.dashboard import FleetSummary, Listing
from kintsugi.db.flags import Flags
from kintsugi.db.flow_samples import FlowSample, FlowSamples
from kintsugi.db.intake import IntakeStore
from kintsugi.db.releases import ReleaseRecord, Releases
from kintsugi.db.stream_record import NOTHING_ON_RECORD, StreamRecord, StreamSummary
from kintsugi.pipeline.cassandra_session import installation_session
from kintsugi.pipeline.ingest.intake_report import IntakeReport
from kintsugi.probes.failure_detector import FailureDetector
from kintsugi.probes.protocols import Probe, probe_nodes
from kintsugi.probes.stream_progress import read_flow
from kintsugi.scaling.progress import describe_progress, read_progress
from kintsugi.web.polling_cache import PolledSource

CHART_SPAN = timedelta(hours=6)
STALE_AFTER = timedelta(seconds=20)
UNUSUAL_SHOWN = 12


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A node as the page's own probes see it. ``symptom``: as the watch names it, None while there is none.

    ``since``: when the first failed probe was sent, UTC, None while the node answers.
    """

    answer: ProbeResult
    detail: str
    symptom: Symptom | None
    since: datetime | None


@dataclass(slots=True)
class Nodes:
    """Probes all nodes at once, and evaluates each by the rules of its watch."""

    fleet: Callable[[], Fleet]
    _watches: dict[str, FailureDetector] = field(default_factory=dict)
    _seen: dict[str, NodeSnapshot] = field(default_factory=dict)

    async def ask(self) -> Mapping[str, NodeSnapshot]:
        """The result of a new probe by node name; takes as long as the slowest probe (at most 2 s).

        A fleet of more than `protocols.MOST_AT_ONCE` nodes takes longer.
        """
        clock, fleet = asyncio.get_running_loop().time, self.fleet()  # nodes come and go
        probes = await probe_nodes(fleet)
        self._seen = {
            node.name: self._judge_probe(node.name, probe, clock())
            for node, probe in zip(fleet, probes, strict=True)
        }
        return dict(self._seen)

    def _judge_probe(self, name: str, probe: Probe, now_s: float) -> NodeSnapshot:
        finding = self._watches.setdefault(name, FailureDetector()).observe(probe, now_s)
        if probe.answer is ProbeResult.OK:
            return NodeSnapshot(probe.answer, probe.detail, None, None)
        before = self._seen.get(name)
        symptom = finding.symptom if finding else before.symptom if before else None
        since = before.since if before and before.since else probe.at
        return NodeSnapshot(probe.answer, probe.detail, symptom, since)


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """The flow's samples of the last hours, oldest first, and whether the watch still writes them.

    ``live``: the watch wrote the newest sample; otherwise the page took it itself. ``record``: losses, waits and
    rejected messages of the stream.
    """

    samples: tuple[FlowSample, ...]
    live: bool
    record: StreamSummary = NOTHING_ON_RECORD


@dataclass(frozen=True, slots=True)
class Files:
    """Trade files in S3: ``pending`` files are not ingested yet, ``oldest`` is the key of the oldest of them.

    ``report``: the last report of the watchdog; None before the first one.
    """

    pending: int
    oldest: str | None
    report: IntakeReport | None = None


@dataclass(frozen=True, slots=True)
class Unusual:
    """One unusual trade. ``score``: as its signal defines it; ``premium`` in dollars; ``at`` UTC."""

    symbol: str
    at: datetime
    contract: str
    signal: str
    score: float
    size: int
    premium: float
    side: str


@dataclass(frozen=True, slots=True)
class UnusualDay:
    """The unusual trades with the highest premium on the newest day that has any, highest first.

    ``total``: the number of signals of that day.
    """

    day: date | None
    total: int
    top: tuple[Unusual, ...]


@dataclass(frozen=True, slots=True)
class ReleasesSnapshot:
    """``nodes``: what each node runs, by name; ``drift``: paths that differ from it on the node's disk, by name.

    ``known_good``: the release that recovery would roll back to, None while there is none. ``scaling``: a line about
    nodes that are being added or removed, empty if there is nothing to say.
    """

    nodes: Mapping[str, ReleaseRecord]
    known_good: ReleaseRecord | None
    drift: Mapping[str, list[str]]
    scaling: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A refused repair that waits for a person, identified by Airflow's task."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    subject: str
    since: datetime


@dataclass(frozen=True, slots=True)
class AirflowSnapshot:
    """``paused``: our paused DAGs. ``late``: components of Airflow without a recent heartbeat.

    ``chaos``: id of the running chaos run, None when there is none.
    """

    paused: frozenset[str]
    late: tuple[str, ...]
    approvals: tuple[Approval, ...]
    chaos: str | None


def polled_sources(settings: Settings) -> dict[str, PolledSource]:
    """The page's sources by name, with their intervals and deadlines."""

    def in_thread(ask: Any) -> Any:
        return lambda: asyncio.to_thread(ask, settings)

    return {
        "nodes": PolledSource(Nodes(lambda: settings.fleet).ask, every_s=1.0, within_s=4.0),
        "store": PolledSource(in_thread(ask_store), every_s=0.7, within_s=3.0),
        "flow": PolledSource(StreamReader(settings).ask, every_s=5.0, within_s=8.0),
        "files": PolledSource(in_thread(ask_files), every_s=3.0, within_s=5.0),
        "unusual": PolledSource(UnusualTrades(settings).ask, every_s=30.0, within_s=8.0),
        "releases": PolledSource(in_thread(ask_releases), every_s=5.0, within_s=3.0),
        "airflow": PolledSource(in_thread(ask_airflow), every_s=2.0, within_s=3.0),
    }


def ask_store(settings: Settings) -> FleetSummary:
    """Incidents, flags and faults; raises StoreUnavailable."""
    return Listing(store_dsn(settings)).read_summary()


@dataclass(slots=True)
class StreamReader:
    """The samples of the watch of the flow; if it writes none, the page reads the stream itself."""

    settings: Settings
    _store: FlowSamples | None = None
    _record: StreamRecord | None = None
    _own: deque[FlowSample] = field(default_factory=lambda: deque(maxlen=720))

    async def ask(self) -> StreamSnapshot:
        """Raises StoreUnavailable; the newest sample shows when Kafka or Spark does not answer."""
        samples = self._samples()
        kept = await asyncio.to_thread(samples.since, datetime.now(UTC) - CHART_SPAN)
        if kept and datetime.now(UTC) - kept[-1].at < STALE_AFTER:
            self._own.clear()
            return StreamSnapshot(tuple(kept), live=True, record=await asyncio.to_thread(self._summary))
        reading = await read_flow(self.settings.fleet)
        self._own.append(FlowSample(reading.at, reading.running, reading.committed, reading.produced))
        return StreamSnapshot((*kept, *self._own), live=False, record=await asyncio.to_thread(self._summary))

    def _summary(self) -> StreamSummary:
        self._record = self._record or StreamRecord(store_dsn(self.settings))
        return self._record.summary()

    def _samples(self) -> FlowSamples:
        self._store = self._store or FlowSamples(store_dsn(self.settings))
        return self._store


def ask_releases(settings: Settings) -> ReleasesSnapshot:
    """The release of each node, and the files that differ on disk; raises StoreUnavailable."""
    dsn = store_dsn(settings)
    releases = Releases(dsn)
    return ReleasesSnapshot(
        releases.node_releases(),
        releases.last_known_good(),
        releases.read_drift(),
        describe_progress(read_progress(Flags(dsn))),
    )


def ask_files(settings: Settings) -> Files:
    """The newest intake report of the watchdog; raises KintsugiError when Postgres doesn't answer."""
    stored = IntakeStore(store_dsn(settings)).report()
    if stored is None:
        raise KintsugiError("the watchdog has not listed S3 yet; wait a few seconds")
    report = IntakeReport.from_json(stored[1])
    return Files(report.waiting, report.oldest, report)


@dataclass(slots=True)
class UnusualTrades:
    """The unusual trades with the highest premium, from ``unusual_top``.

    Keeps its session, because opening one costs more than the query.
    """

    settings: Settings
    _session: Any = None

    async def ask(self) -> UnusualDay:
        """Raises KintsugiError when Cassandra doesn't answer."""
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> UnusualDay:
        session = self._connected()
        days = [
            row.trade_date for row in self._select(session, "SELECT DISTINCT trade_date FROM unusual_trade")
        ]
        if not days:
            return UnusualDay(None, 0, ())
        day = max(days)
        (total,) = self._select(
            session, "SELECT count(*) FROM unusual_trade WHERE trade_date = %s", (day,)
        ).one()
        where = "WHERE trade_date = %s AND ranking = 'premium' LIMIT %s"
        rows = self._select(session, f"SELECT * FROM unusual_top {where}", (day, UNUSUAL_SHOWN))
        return UnusualDay(day.date(), total, tuple(_to_unusual(row) for row in rows))

    def _connected(self) -> Any:
        if self._session is None:
            self._session = installation_session(self.settings, Principal.PAGE)
        return self._session

    @staticmethod
    def _select(session: Any, query: str, values: tuple[Any, ...] = ()) -> Any:
        from cassandra import ConsistencyLevel, DriverException
        from cassandra.cluster import NoHostAvailable
        from cassandra.query import SimpleStatement

        # Any replica is good enough for display, and it still answers when two of three nodes are down.
        statement = SimpleStatement(query, consistency_level=ConsistencyLevel.LOCAL_ONE)
        try:
            return session.execute(statement, values or None, timeout=5.0)
        except (DriverException, NoHostAvailable) as error:
            raise KintsugiError(f"the unusual trades can't be read: {error}") from error


def _to_unusual(row: Any) -> Unusual:
    strike = f"{row.strike:g}" if row.strike is not None else "?"
    return Unusual(
        symbol=row.symbol,
        at=row.ts.replace(tzinfo=UTC),
        contract=f"{row.root} {row.expiration} {strike} {row.option_type}",
        signal=row.signal,
        score=row.score or 0.0,
        size=row.size or 0,
        premium=row.premium or 0.0,
        side=row.side or "unknown",
    )


def ask_airflow(settings: Settings) -> AirflowSnapshot:
    """The state from Airflow's own tables; runs in the api-server, which may read them."""
    from airflow.jobs.job import Job
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    now = datetime.now(UTC)
    with create_session() as session:
        paused = session.scalars(select(DagModel.dag_id).where(DagModel.is_paused, ~DagModel.is_stale)).all()
        beats = session.execute(
            select(Job.job_type, Job.latest_heartbeat).where(
                Job.state == "running", Job.latest_heartbeat > now - HEARTBEAT_LATE
            )
        ).all()
        waiting = session.execute(
            select(TaskInstance, HITLDetail.subject, HITLDetail.created_at)
            .join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
            .where(HITLDetail.responded_at.is_(None), TaskInstance.state.in_(WAITING))
        ).all()
        chaos = session.scalar(
            select(DagRun.run_id).where(DagRun.dag_id == "chaos_nightly", DagRun.state == "running").limit(1)
        )
        alive = {job for job, _ in beats}
        return AirflowSnapshot(
            paused=frozenset(paused),
            late=tuple(label for job, label in HEARTBEATS.items() if job not in alive),
            approvals=tuple(
                Approval(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, subject, created)
                for ti, subject, created in waiting
            ),
            chaos=chaos,
        )


HEARTBEAT_LATE = timedelta(seconds=30)
HEARTBEATS = {
    "SchedulerJob": "scheduler",
    "TriggererJob": "triggerer",
    "DagProcessorJob": "dag-processor",
}
WAITING = ("awaiting_input", "deferred")

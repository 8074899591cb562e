"""The status of the installation, for a person or, as JSON, for a program.

All components are asked in parallel, and none has to answer: a person reads this when everything is down.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.connections import store_dsn
from kintsugi.core.fleet import WATCH, Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import BUCKET, KAFKA_PORT, Settings
from kintsugi.db.flow_samples import FlowSamples
from kintsugi.db.intake import IntakeStore
from kintsugi.db.patience import LOOK
from kintsugi.db.replica_repairs import describe_repairs
from kintsugi.db.store import Store
from kintsugi.db.stream_record import StreamRecord
from kintsugi.pipeline.ingest.intake_report import IntakeReport
from kintsugi.pipeline.stream_lag import read_consumer_lag
from kintsugi.probes import probe_node, probe_ssh
from kintsugi.probes.disk import read_headroom, shortage_of_room
from kintsugi.web import flow
from kintsugi.web.intake import assess_intake
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import Severity
from kintsugi.web.sources import STALE_AFTER, StreamSnapshot

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from kintsugi.db.flow_samples import FlowSample

INCIDENTS = 5
_LAG_SECONDS = 8.0
STREAM_SPAN = timedelta(hours=1)
_WELL = {"ok", "RUNNING", "healthy", "success", "healed"}
_BUSY = {"running", "queued", "STARTING"}

Document = dict[str, Any]
Answered = TypeVar("Answered")


def gather_status(settings: Settings) -> Document:
    """What ``make status`` shows, JSON throughout.

    Keys: ``well unwatched control_plane airflow nodes dags lag stream intake record replicas open_incidents
    incidents``.

    ``nodes``: name, role, address, ``zone``, ``service`` and ``ssh`` (``ok``, ``refused``, ``timeout``, ``wrong``),
    ``detail``, ``disk`` (``ok``, ``full``: nearly full, ``unknown``), ``disk_free`` in bytes. ``lag``: messages
    not yet stored, over all partitions. ``stream``: ``level`` as on Pipeline Health, and ``said``, a sentence; None
    while its watch writes no samples. ``intake``: the same for the step before Kafka, and the fields of
    `IntakeReport`. ``replicas``: ``said``, a sentence, and ``nodes``: by Cassandra node the `Compared` of its last
    repair, with times in ISO 8601. ``incidents``: the last five, newest first. ``open_incidents``: the ids of all open
    incidents. ``record``: ``well`` and ``said``: a line for each wait of the ingest, for messages that Kafka deleted
    before they were stored, and for messages that were not trades. ``unwatched``: nodes (and the flow) whose watch is
    paused; they are not recovered. ``well``: every component, node and disk, the stream, the intake and Airflow are
    healthy, and no incident is open. A value that is not known is None.
    """
    plane = ControlPlane(settings)
    with ThreadPoolExecutor(max_workers=4) as pool:
        nodes = pool.submit(lambda: asyncio.run(_read_nodes(settings)))
        airflow = pool.submit(_read_airflow, plane)
        incidents = pool.submit(_or_none, lambda: _read_incidents(settings))
        opened = pool.submit(_or_none, lambda: _read_open_incidents(settings))
        stream = pool.submit(_or_none, lambda: stream_of(_read_samples(settings), datetime.now(UTC)))
        replicas = pool.submit(_or_none, lambda: _read_replicas(settings))
        record = pool.submit(_or_none, lambda: _read_record(settings))
        intake = pool.submit(_or_none, lambda: _read_intake(settings))
        document: Document = {
            "control_plane": plane.status(),
            "airflow": {"url": plane.airflow.url, **airflow.result()["health"]},
            "nodes": nodes.result(),
            "dags": airflow.result()["dags"],
            "open_incidents": opened.result(),
            "incidents": incidents.result() or [],
            "replicas": replicas.result(),
            "stream": stream.result(),
            "record": record.result(),
            "intake": intake.result(),
        }
    document["lag"] = _read_lag(settings, document["nodes"])
    return {"well": is_well(document), "unwatched": unwatched_targets(document["dags"]), **document}


def unwatched_targets(dags: Sequence[Document]) -> list[str]:
    """The targets of the paused watches among ``dags``: names of nodes, and the flow."""
    return sorted(
        dag["dag_id"].removeprefix(WATCH) for dag in dags if dag["paused"] and dag["dag_id"].startswith(WATCH)
    )


def _read_lag(settings: Settings, nodes: list[Document]) -> int | None:
    # Kafka's client retries for half a minute. So it is not asked when no broker answers, and the wait is limited.
    if not any(node["role"] == Role.KAFKA and node["service"] == "ok" for node in nodes):
        return None
    brokers = settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    answer: list[int | None] = []
    asking = threading.Thread(
        target=lambda: answer.append(_or_none(lambda: read_consumer_lag(brokers))), daemon=True
    )
    asking.start()
    asking.join(_LAG_SECONDS)
    return answer[0] if answer else None


def print_status(document: Document) -> None:
    """Print the status for a person."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    console.print(
        _make_table("Nodes", ("node", "role", "address", "service", "ssh", ""), _node_rows(document))
    )
    console.print(_make_table("Control plane", ("component", "state", "health"), _component_rows(document)))
    if document["dags"]:
        console.print(_make_table("DAGs", ("DAG", "", "last run", "at"), _dag_rows(document)))
    lag = "unknown" if document["lag"] is None else f"{document['lag']:,} messages behind"
    late = document["stream"] or {"level": Severity.WELL, "said": ""}
    console.print(f"Stream: {lag}" if late["level"] == Severity.WELL else f"Stream: {lag}; {late['said']}")
    for line in (document.get("record") or {}).get("said", ()):
        console.print(f"Stream: {line}")
    _print_intake(console, document.get("intake"))
    if document["replicas"]:
        console.print(f"Cassandra: {document['replicas']['said']}")
    if document["incidents"]:
        heads = ("incident", "outcome", "detect", "repair", "reason")
        console.print(_make_table("Last incidents", heads, _incident_rows(document)))
    else:
        console.print("No incidents on record.")
    if opened := document["open_incidents"]:
        console.print(
            f"[yellow]Open: {', '.join(opened)}.[/yellow] `make incident ID=<id>` shows what is being done"
        )
    elif opened is None:
        console.print("[red]Postgres does not answer: open incidents are not known.[/red]")
    why = "; ".join(find_problems(document))
    verdict = (
        "[green]all is well[/green]" if document["well"] else f"[red]not all is well: {escape(why)}[/red]"
    )
    if sleeping := document["unwatched"]:
        console.print(
            f"[yellow]Nobody watches {', '.join(sleeping)}: a failure there is not recovered.[/yellow] "
            "`make unpause` starts every watch, the stream and the ingest"
        )
    console.print(f"Airflow: {document['airflow']['url']}   {verdict}")


def _print_intake(console: Console, intake: Document | None) -> None:
    """One line about the intake, and a table of the files with a problem."""
    from rich.markup import escape

    if intake is None:
        console.print("Intake: unknown (Postgres does not answer)")
        return
    console.print(f"Intake: {intake.get('waiting', '?')} files wait. {intake['said']}", markup=False)
    rows: list[tuple[str, ...]] = [
        (kind, escape(f"s3://{note['bucket'] or BUCKET}/{note['key']}"), escape(note["said"]))
        for kind in ("failed", "empty", "retried", "rejected")
        for note in intake.get(kind, ())
    ]
    if rows:
        console.print(_make_table("Files", ("", "file", ""), rows))
    for name, label in (("missing", "Missing"), ("not_taken", "Not ingested")):
        if intake.get(name):
            console.print(f"{label}: {', '.join(intake[name])}", markup=False)


async def _read_nodes(settings: Settings) -> list[Document]:
    return list(await asyncio.gather(*(_read_node(settings, node) for node in settings.fleet)))


async def _read_node(settings: Settings, node: Node) -> Document:
    service, ssh = await asyncio.gather(probe_node(node), probe_ssh(node.address, node.ssh_port))
    room = await read_headroom(settings, node) if ssh.answer is ProbeResult.OK else None
    full = shortage_of_room(room) if room else None
    return {
        "name": node.name,
        "role": node.role.value,
        "address": node.address,
        "zone": node.zone,
        "service": service.answer.value,
        "ssh": ssh.answer.value,
        "detail": "; ".join(said for said in (service.detail, full) if said),
        "disk_free": room.free if room else None,
        "disk": "unknown" if room is None else "full" if full else "ok",
    }


def _read_airflow(plane: ControlPlane) -> dict[str, Any]:
    health = plane.airflow.health()
    dags = (_or_none(plane.airflow.dags) or []) if health else []
    return {"health": health, "dags": [_read_dag(plane, entry) for entry in dags]}


def _read_dag(plane: ControlPlane, entry: Document) -> Document:
    run = _or_none(lambda: plane.airflow.youngest_run(entry["dag_id"])) or {}
    return {
        "dag_id": entry["dag_id"],
        "paused": entry["is_paused"],
        "last_run": run.get("state"),
        "at": run.get("start_date"),
    }


def _read_incidents(settings: Settings) -> list[Document]:
    return [
        incident.to_json() for incident in Store(store_dsn(settings), patience=LOOK).read_incidents(INCIDENTS)
    ]


def _read_open_incidents(settings: Settings) -> list[str]:
    return [
        incident.id for incident in Store(store_dsn(settings), patience=LOOK).read_incidents(open_only=True)
    ]


def _read_replicas(settings: Settings) -> Document:
    compared = Store(store_dsn(settings), patience=LOOK).replica_repairs()
    nodes = [node.name for node in settings.fleet.of(Role.CASSANDRA)]
    return {
        "said": describe_repairs(nodes, compared),
        "nodes": {name: known.to_json() for name, known in compared.items()},
    }


def _read_intake(settings: Settings) -> Document:
    from kintsugi.pipeline.ingest.intake_monitor import read_rules  # numpy

    record = IntakeStore(store_dsn(settings), patience=LOOK).report()
    report = IntakeReport.from_json(record[1]) if record else None
    return assess_intake(report, read_rules(), datetime.now(UTC)).to_json()


def _read_samples(settings: Settings) -> list[FlowSample]:
    return FlowSamples(store_dsn(settings), patience=LOOK).since(datetime.now(UTC) - STREAM_SPAN)


def _read_record(settings: Settings) -> Document:
    summary = StreamRecord(store_dsn(settings), patience=LOOK).summary()
    return {"well": summary.well, "said": summary.lines()}


def stream_of(samples: Sequence[FlowSample], now: datetime) -> Document | None:
    """The state of the stream as on Pipeline Health, from samples, oldest first; None if the newest is too old."""
    if not samples or now - samples[-1].at > STALE_AFTER:
        return None
    seen = flow.assess_stream(CachedValue(StreamSnapshot(tuple(samples), live=True)))
    return {"level": seen.level.value, "said": f"{seen.sentence} {seen.advice}"}


def _or_none(ask: Callable[[], Answered]) -> Answered | None:
    """The answer, or None when the component is down; its client can raise any error then."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - drivers raise their own errors, and the status must not fail
        return None


def find_problems(document: Document) -> list[str]:
    """What is not healthy, a short phrase each; an Airflow or a store without an answer is not healthy."""
    phrases = [phrase for node in document["nodes"] if (phrase := _node_problem(node))]
    parts = document["control_plane"]
    phrases += [f"{name} is {part['state']}" for name, part in parts.items() if part["state"] != "RUNNING"]
    health = {name: state for name, state in document["airflow"].items() if name != "url"}
    phrases += [f"{name} is {state}" for name, state in health.items() if state != "healthy"]
    phrases += [] if health else ["Airflow does not answer"]
    for part in ("stream", "intake"):
        state = document.get(part) or {}
        phrases += (
            [f"{part}: {state.get('said', '')}".rstrip(".")] if state.get("level") == Severity.BAD else []
        )
    if document["open_incidents"] is None:
        phrases.append("Postgres does not answer")
    elif document["open_incidents"]:
        phrases.append(f"{len(document['open_incidents'])} open incident(s)")
    if not (document.get("record") or {"well": True})["well"]:
        phrases.append("the record of the stream (above)")
    return phrases


def _node_problem(node: Document) -> str | None:
    name = node.get("name", "a node")
    if node["service"] != "ok":
        return f"{name} does not serve"
    if node["ssh"] != "ok":
        return f"sshd of {name} does not answer"
    return f"the disk of {name} is nearly full" if node.get("disk") == "full" else None


def is_well(document: Document) -> bool:
    """Whether everything that answered is healthy; see `find_problems`."""
    return not find_problems(document)


def _make_table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")  # never cut a name
    for row in rows:
        table.add_row(*row)
    return table


def _node_rows(document: Document) -> list[tuple[str, ...]]:
    return [
        (
            node["name"],
            f"{node['role']}, zone {node['zone']}" if node["zone"] else node["role"],
            node["address"],
            _paint_state(node["service"]),
            _paint_state(node["ssh"]),
            node["detail"],
        )
        for node in document["nodes"]
    ]


def _component_rows(document: Document) -> list[tuple[str, ...]]:
    health = {name.replace("_", "-"): state for name, state in document["airflow"].items()}
    return [
        (name, _paint_state(part["state"]), _paint_state(health.get(name)))
        for name, part in document["control_plane"].items()
    ]


def _dag_rows(document: Document) -> list[tuple[str, ...]]:
    return [
        (
            dag["dag_id"],
            "paused" if dag["paused"] else "",
            _paint_state(dag["last_run"]),
            (dag["at"] or "")[:19],
        )
        for dag in document["dags"]
    ]


def _incident_rows(document: Document) -> list[tuple[str, ...]]:
    return [
        (
            incident["id"],
            _paint_state(
                incident["outcome"] or ("waits for a decision" if incident["awaits_decision"] else "running")
            ),
            _format_seconds(incident["detect_s"]),
            _format_seconds(incident["repair_s"]),
            incident["reason"] or "",
        )
        for incident in document["incidents"]
    ]


def _format_seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _paint_state(state: str | None) -> str:
    if state is None:
        return ""
    colour = "green" if state in _WELL else "yellow" if state in _BUSY else "red"
    return f"[{colour}]{state}[/{colour}]"

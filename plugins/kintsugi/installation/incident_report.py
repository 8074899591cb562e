"""``kintsugi incident``: the report of one incident, with Terraform's plan and the last log lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kintsugi.core.incident import Incident
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.operations.archived_logs import last_lines
from kintsugi.operations.context import Context
from kintsugi.operations.spool import spool_directory
from kintsugi.recovery.plan_policy import planned_changes

LOG_LINES = 12  # of each service
READ_BYTES = 32 * 1024 * 1024  # of one object
LINE_WIDTH = 300  # a JVM's command line is very long


def format_incident(settings: Settings, incident_id: str, *, as_json: bool = False) -> str:
    """The report of an incident. Raises KintsugiError when there is no such incident."""
    context = Context.from_environment()
    incident = context.store.read_incident(incident_id)
    archive = IncidentFiles(settings, context.s3(S3Purpose.PAGE), incident_id)
    if as_json:
        return json.dumps({**incident.to_json(), "plan": archive.plan(), "logs": archive.logs()}, indent=2)
    return "\n".join([*_journal_lines(incident), *_plan_lines(archive.plan()), *_log_lines(archive.logs())])


class IncidentFiles:
    """The archive of an incident in S3 or, while S3 does not answer, in the spool."""

    def __init__(self, settings: Settings, s3: Any, incident_id: str) -> None:
        self._settings, self._s3 = settings, s3
        self._prefix = f"incidents/{incident_id}/"

    def plan(self) -> dict[str, list[str]]:
        """Address → Terraform's actions; empty when there is no plan."""
        body = self._read(f"{self._prefix}plan.json")
        return planned_changes(json.loads(body)) if body else {}

    def logs(self) -> dict[str, list[str]]:
        """Service → its last lines before the repair."""
        tails = {}
        for key in self._keys(f"{self._prefix}logs/"):
            body = self._read(key)
            if body:
                # sshd ends its lines with a carriage return, which syslog writes as #015.
                tails[key.rsplit("/", 1)[-1].removesuffix(".log.gz")] = [
                    line.removesuffix("#015")[:LINE_WIDTH] for line in last_lines(body, LOG_LINES)
                ]
        return tails

    def _keys(self, prefix: str) -> list[str]:
        from botocore.exceptions import BotoCoreError, ClientError

        folder = spool_directory(self._settings)
        spooled = {str(path.relative_to(folder)) for path in (folder / prefix).glob("*") if path.is_file()}
        try:
            listed = self._s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        except (BotoCoreError, ClientError):
            listed = []
        return sorted(spooled | {item["Key"] for item in listed})

    def _read(self, key: str) -> bytes | None:
        from botocore.exceptions import BotoCoreError, ClientError

        waiting = spool_directory(self._settings) / key
        if waiting.is_file():
            with waiting.open("rb") as file:
                return file.read(READ_BYTES)
        try:
            body: bytes = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(READ_BYTES)
        except (BotoCoreError, ClientError):
            return None
        return body


def _journal_lines(incident: Incident) -> Iterator[str]:
    yield f"{incident.id}: {incident.outcome or 'open'}; {incident.reason or ''}"
    for entry in incident.entries:
        since = (entry.at - incident.started_at).total_seconds()
        yield f"{since:8.1f} s  {entry.step:16} {entry.message}"
    for phase, seconds in incident.phases().items():
        yield f"{phase:>26} {seconds:7.1f} s"


def _plan_lines(plan: Mapping[str, list[str]]) -> Iterator[str]:
    if plan:
        yield "\nTerraform's plan:"
    for address, actions in plan.items():
        yield f"  {'/'.join(actions):16} {address}"


def _log_lines(logs: Mapping[str, list[str]]) -> Iterator[str]:
    if not logs:
        yield "\nNo log of the node was archived for this incident."
    for service, lines in logs.items():
        yield f"\nLast lines of {service} before the repair:"
        yield from (f"  {line}" for line in lines)

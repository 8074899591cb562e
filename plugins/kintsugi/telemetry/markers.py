"""Markers on Honeycomb's graphs: start and end of incidents and injected faults.

They need a configuration key with the permission to manage markers, which an ingest key lacks. So they have their own
connection, ``kintsugi_honeycomb``: ``{"conn_type": "http", "host": "https://api.honeycomb.io",
"password": "<configuration key>", "extra": {"dataset": "__all__"}}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from kintsugi.core.connections import connection, extras
from kintsugi.core.errors import KintsugiError

CONNECTION = "kintsugi_honeycomb"
TIMEOUT_S = 5.0
ALL_DATASETS = "__all__"


@dataclass(frozen=True, slots=True)
class Marker:
    """A period of time (UTC); ``end`` is None while it lasts. ``type`` groups markers by colour."""

    type: str
    message: str
    start: datetime
    end: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """The format of the Markers API: times in whole Unix seconds."""
        document: dict[str, Any] = {
            "type": self.type,
            "message": self.message,
            "start_time": int(self.start.timestamp()),
        }
        return document if self.end is None else {**document, "end_time": int(self.end.timestamp())}


@dataclass(frozen=True, slots=True)
class Markers:
    """The Markers API of one Honeycomb environment."""

    url: str
    key: str = field(repr=False)
    dataset: str = ALL_DATASETS

    def put(self, marker: Marker, marker_id: str | None = None) -> str:
        """Create the marker, or replace the marker ``marker_id``; returns its id.

        Raises KintsugiError with Honeycomb's answer when it does not accept the marker within TIMEOUT_S.
        """
        import httpx

        path = f"{self.url}/1/markers/{quote(self.dataset, safe='')}"
        method, path = ("PUT", f"{path}/{quote(marker_id, safe='')}") if marker_id else ("POST", path)
        try:
            answer = httpx.request(
                method,
                path,
                json=marker.to_json(),
                headers={"X-Honeycomb-Team": self.key},
                timeout=TIMEOUT_S,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise KintsugiError(
                f"Honeycomb's Markers API at {self.url} does not answer: {error!r}"
            ) from error
        if answer.status_code == 404 and marker_id:
            return self.put(marker)  # the marker was deleted
        if answer.is_error:
            raise KintsugiError(
                f"Honeycomb refused a marker ({answer.status_code}): {answer.text[:200]}; "
                f"check that the key of the connection {CONNECTION} may manage markers"
            )
        return str(answer.json()["id"])


def load_markers() -> Markers | None:
    """The API that the connection describes; None without one."""
    defined: Mapping[str, Any] | None = connection(CONNECTION)
    if not defined:
        return None
    if not defined.get("password"):
        raise KintsugiError(f"the connection {CONNECTION} has no password: enter a configuration key there")
    return Markers(
        str(defined.get("host") or "https://api.honeycomb.io").rstrip("/"),
        str(defined["password"]),
        str(extras(defined).get("dataset", ALL_DATASETS)),
    )

"""The user's own connections: where market data comes from, and where telemetry, pages, heartbeats and backups go.

They are in a file of the user, outside the state that ``make down`` removes: ``$KINTSUGI_CONNECTIONS``, else
``/etc/kintsugi/connections.json`` (root) or ``~/.config/kintsugi/connections.json``, in the form of
``airflow connections export``: ``{"<connection id>": {"conn_type": …, "host": …, "password": …, "extra": {…}}}``.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from kintsugi.core.errors import KintsugiError

KNOWN = (
    "kintsugi_backup",
    "kintsugi_data",
    "kintsugi_otlp",
    "kintsugi_honeycomb",
    "kintsugi_honeycomb_webhook",
    "kintsugi_apprise",
    "kintsugi_heartbeat",
)


def connections_path() -> Path:
    """Return the path of the connections file; it need not exist."""
    named = os.environ.get("KINTSUGI_CONNECTIONS")
    if named:
        return Path(named)
    return (Path("/etc") if os.geteuid() == 0 else Path.home() / ".config") / "kintsugi/connections.json"


def user_connections(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the user's connections by id; empty if there is no file.

    Raises KintsugiError if others may read the file, if it isn't JSON, or if it defines an unknown connection.
    """
    path = path or connections_path()
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise KintsugiError(f"cannot read the connections in {path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise KintsugiError(f"{path} holds secrets, but others may read it: run `chmod 600 {path}`")
    try:
        connections = json.loads(text)
    except ValueError as error:
        # The text is not shown, because it holds secrets.
        raise KintsugiError(f"{path} is not JSON: look at line {getattr(error, 'lineno', '?')}") from None
    if not isinstance(connections, dict) or not all(
        isinstance(value, dict) for value in connections.values()
    ):
        raise KintsugiError(f"{path} must be a JSON object of connections by id")
    unknown_ids = sorted(set(connections) - set(KNOWN))
    if unknown_ids:
        raise KintsugiError(
            f"{path} defines {', '.join(unknown_ids)}, which Kintsugi doesn't use; known are: {', '.join(KNOWN)}. "
            "The bucket with your market data is kintsugi_data (docs/your-bucket.md)"
        )
    return connections

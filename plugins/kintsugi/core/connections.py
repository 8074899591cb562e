"""Connections to S3 and the database: Airflow's connection if the environment defines one, else the settings.

A connection in the environment is ``AIRFLOW_CONN_<ID>`` as JSON, the form that the control plane writes. It is read
here directly, so that the command line and the triggers need not load Airflow.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings

if TYPE_CHECKING:
    from kintsugi.core.data_source import DataSource

log = logging.getLogger(__name__)

S3_IN_TIME_S = 2
DATA_CONNECTION = "kintsugi_data"
TIMEOUTS: dict[str, Any] = {
    "connect_timeout": 2,
    "read_timeout": 10,
    "retries": {"max_attempts": 3, "mode": "standard"},
}
IN_TIME: dict[str, Any] = {
    "connect_timeout": S3_IN_TIME_S,
    "read_timeout": S3_IN_TIME_S,
    "retries": {"total_max_attempts": 1, "mode": "standard"},
}


def connection(conn_id: str) -> dict[str, Any] | None:
    """Return the connection that the environment defines, None without one. Raises KintsugiError unless it is JSON."""
    name = f"AIRFLOW_CONN_{conn_id.upper()}"
    value = os.environ.get(name)
    if not value:
        return None
    try:
        found: dict[str, Any] = json.loads(value)
    except ValueError as error:
        # The text itself is not shown, because it may hold a password.
        raise KintsugiError(f"{name} is not JSON: write the connection in Airflow's JSON form") from error
    return found


def extras(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the connection's ``extra``, which Airflow stores as JSON or as JSON text."""
    extra = found.get("extra") or {}
    return dict(json.loads(extra) if isinstance(extra, str) else extra)


def store_dsn(settings: Settings) -> str:
    """Return the libpq connection string of the ``kintsugi`` database (connection ``kintsugi_store``)."""
    from psycopg.conninfo import make_conninfo

    conn = connection("kintsugi_store") or {
        "host": settings.fleet.control_plane.address,
        "port": settings.fleet.control_plane.postgres_port,
        "login": "kintsugi",
        "password": settings.secret("postgres"),
        "schema": "kintsugi",
    }
    return make_conninfo(
        host=conn["host"],
        port=conn.get("port", 5432),
        user=conn["login"],
        password=conn["password"],
        dbname=conn.get("schema", "kintsugi"),
        connect_timeout=5,
    )


def own_postgres_url(settings: Settings, database: str = "kintsugi") -> str:
    """Return ``postgresql://…`` of the installation's own server. Holds the password: never pass it as an argument."""
    plane = settings.fleet.control_plane
    return f"postgresql://kintsugi:{settings.secret('postgres')}@{plane.address}:{plane.postgres_port}/{database}"


def s3_client(settings: Settings, *, in_time: bool = False) -> Any:
    """Return a boto3 S3 client for the installation's own bucket (connection ``kintsugi_s3``).

    Time-outs are short. ``in_time``: a call that gets no byte for S3_IN_TIME_S fails and isn't retried, because a
    recovery must not wait for an S3 that hangs. What isn't delivered waits in a spool.
    """
    import boto3
    from botocore.config import Config

    plane = settings.fleet.control_plane
    conn = connection("kintsugi_s3") or {
        "login": "kintsugi",
        "password": settings.secret("s3"),
        "extra": {"endpoint_url": f"http://{plane.address}:{plane.s3_port}", "region_name": "us-east-1"},
    }
    extra = extras(conn)
    return boto3.client(
        "s3",
        endpoint_url=extra.get("endpoint_url"),
        region_name=extra.get("region_name", "us-east-1"),
        aws_access_key_id=conn.get("login"),
        aws_secret_access_key=conn.get("password"),
        config=Config(**(IN_TIME if in_time else TIMEOUTS), s3={"addressing_style": "path"}),
    )


def data_sources(settings: Settings) -> tuple[DataSource, ...]:
    """Return the buckets that market data is read from: the installation's own, then the user's (`data_connection`).

    The own bucket comes first, because it holds synthetic trades and sample data. Raises KintsugiError if the user's
    connection can't be used.
    """
    from kintsugi.core.data_source import own_source  # start-up

    own = own_source(s3_client(settings))
    found = data_connection()
    if found is None:
        return (own,)
    from kintsugi.core.data_bucket import combined, user_source  # cycle

    return combined(own, user_source(found))


def client_of(settings: Settings, bucket: str) -> Any:
    """Return a client for ``bucket``: the user's if the connection ``kintsugi_data`` names it, else the installation's.

    Raises KintsugiError if the user's connection can't be used.
    """
    sources = data_sources(settings)
    return next((source.client for source in sources if source.bucket == bucket), sources[0].client)


def reachable_sources(settings: Settings) -> tuple[DataSource, ...]:
    """Return `data_sources`, without the user's bucket if its connection can't be used now.

    The ingest uses it, so that synthetic trades still arrive. The watchdog pages about the bucket.
    """
    from kintsugi.core.data_source import own_source  # start-up

    try:
        return data_sources(settings)
    except KintsugiError as error:
        log.warning("%s; only the installation's own bucket is read", error)
        return (own_source(s3_client(settings)),)


def data_connection() -> dict[str, Any] | None:
    """Return the user's connection ``kintsugi_data``: from the environment, else from the user's connections file.

    Control plane and tasks have it in the environment; the command line and the Spark driver read the file.
    """
    from kintsugi.core.user_connections import user_connections  # start-up

    return connection(DATA_CONNECTION) or user_connections().get(DATA_CONNECTION)

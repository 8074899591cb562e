"""Connections to S3 and the database: Airflow's connection if the environment defines one, else the settings.

A connection in the environment is ``AIRFLOW_CONN_<ID>`` as JSON, the form that the control plane writes. Where
Airflow is loaded, the hooks of its providers read it: every field of the connection works there. A process without
Airflow (the command line, a Spark driver) reads it here, and loads no Airflow for it (docs/decisions/0133).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kintsugi.core.errors import KintsugiError
from kintsugi.core.s3_keys import S3Purpose, current_key, is_access_key
from kintsugi.core.settings import Settings

if TYPE_CHECKING:
    from kintsugi.core.data_source import DataSource

log = logging.getLogger(__name__)

S3_IN_TIME_S = 2
S3_CONNECTION = "kintsugi_s3"
DATA_CONNECTION = "kintsugi_data"
BACKUP_CONNECTION = "kintsugi_backup"
CASSANDRA_CONNECTION = "kintsugi_cassandra"
REGION = "us-east-1"  # a client wants one, and the installation's own server has none
PATH_STYLE: dict[str, Any] = {"s3": {"addressing_style": "path"}}
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


def read_connection(conn_id: str) -> dict[str, Any] | None:
    """Return the connection that the environment defines, None without one. Raises KintsugiError unless it is JSON."""
    name = _variable_name(conn_id)
    value = os.environ.get(name)
    if not value:
        return None
    try:
        conn: dict[str, Any] = json.loads(value)
    except ValueError as error:
        # The text itself is not shown, because it may hold a password.
        raise KintsugiError(f"{name} is not JSON: write the connection in Airflow's JSON form") from error
    return conn


def _variable_name(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def has_hook(conn_id: str) -> bool:
    """Whether a hook of Airflow is to read this connection: Airflow is loaded, and the environment defines it."""
    return "airflow" in sys.modules and bool(os.environ.get(_variable_name(conn_id)))


def extras(conn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the connection's ``extra``, which Airflow stores as JSON or as JSON text."""
    extra = conn.get("extra") or {}
    return dict(json.loads(extra) if isinstance(extra, str) else extra)


def store_dsn(settings: Settings) -> str:
    """Return the libpq connection string of the ``kintsugi`` database (connection ``kintsugi_store``)."""
    from psycopg.conninfo import make_conninfo

    conn = read_connection("kintsugi_store") or {
        "host": str(postgres_socket(settings)),
        "port": settings.fleet.control_plane.postgres_port,
        "login": "kintsugi",
        "schema": "kintsugi",
    }
    return make_conninfo(
        host=conn["host"],
        port=conn.get("port", 5432),
        user=conn["login"],
        password=conn.get("password"),
        dbname=conn.get("schema", "kintsugi"),
        connect_timeout=5,
    )


def postgres_socket(settings: Settings) -> Path:
    """Return the directory of our own Postgres' unix socket. No other user can enter it, or take the server's place."""
    return settings.control / "postgres-socket"


def socket_url(directory: Path, port: int, database: str) -> str:
    """Return ``postgresql://…`` of a server on a unix socket, as libpq, lib/pq (Terraform) and SQLAlchemy read it."""
    return f"postgresql://kintsugi@/{database}?host={quote(str(directory))}&port={port}"


def own_postgres_url(settings: Settings, database: str = "kintsugi") -> str:
    """Return ``postgresql://…`` of the installation's own server; it holds no password."""
    return socket_url(postgres_socket(settings), settings.fleet.control_plane.postgres_port, database)


def s3_connection(purpose: S3Purpose) -> str:
    """Return the id of the connection to our own bucket for a purpose, as in ``kintsugi_s3_ingest``."""
    return f"{S3_CONNECTION}_{purpose}"


def s3_client(settings: Settings, purpose: S3Purpose, *, in_time: bool = False) -> Any:
    """Return a boto3 S3 client for our own bucket, which may do what ``purpose`` may; by S3Hook inside Airflow.

    The connection is ``kintsugi_s3_<purpose>``. Time-outs are short. ``in_time``: a call that gets no byte for
    S3_IN_TIME_S fails and isn't retried, because a recovery must not wait for an S3 that hangs. What isn't delivered
    waits in a spool.
    """
    conn_id = s3_connection(purpose)
    _take_current_key(settings, purpose)
    if has_hook(conn_id):
        return _own_hook_client(conn_id, os.environ[_variable_name(conn_id)], in_time)
    import boto3
    from botocore.config import Config

    conn = read_connection(conn_id) or own_s3_connection(settings, purpose)
    extra = extras(conn)
    return boto3.client(
        "s3",
        endpoint_url=extra.get("endpoint_url"),
        region_name=extra.get("region_name", REGION),
        aws_access_key_id=conn.get("login"),
        aws_secret_access_key=conn.get("password"),
        config=Config(**(IN_TIME if in_time else TIMEOUTS), **PATH_STYLE),
    )


def _take_current_key(settings: Settings, purpose: S3Purpose) -> None:
    """Put the current key into the environment of this process, which is older than a rotation of the keys.

    A key that isn't one of this installation's is left alone.
    """
    conn = read_connection(s3_connection(purpose))
    if conn is None or not is_access_key(purpose, str(conn.get("login"))):
        return
    key = current_key(settings, purpose)
    if conn["login"] != key.access_key:
        conn |= {"login": key.access_key, "password": key.secret}
        os.environ[_variable_name(s3_connection(purpose))] = json.dumps(conn)


def own_s3_connection(settings: Settings, purpose: S3Purpose) -> dict[str, Any]:
    """Return the connection of ``purpose`` to the installation's S3, in Airflow's form, with its current key."""
    plane, key = settings.fleet.control_plane, current_key(settings, purpose)
    return {
        "conn_type": "aws",
        "login": key.access_key,
        "password": key.secret,
        "extra": {
            "region_name": REGION,
            "endpoint_url": f"http://{plane.address}:{plane.s3_port}",
            "config_kwargs": PATH_STYLE,
        },
    }


@lru_cache(maxsize=2 * len(S3Purpose))
def _own_hook_client(conn_id: str, defined: str, in_time: bool) -> Any:
    """The client of the connection that is ``defined`` so; one a process, because making it takes 70 ms."""
    return hook_client(conn_id, TIMEOUTS | PATH_STYLE, fixed=IN_TIME if in_time else {})


def hook_client(conn_id: str, defaults: Mapping[str, Any], *, fixed: Mapping[str, Any] | None = None) -> Any:
    """A boto3 S3 client with everything that Airflow's S3Hook reads from the connection.

    The ``config_kwargs`` of the connection go before ``defaults``, and ``fixed`` goes before both. Raises KintsugiError
    where the provider can't make a client (a profile that doesn't exist, a role that isn't granted).
    """
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from botocore.config import Config

    try:
        hook = S3Hook(aws_conn_id=conn_id)
        conn_config = hook.conn_config
        if not conn_config:  # the hook goes on with the machine's own identity then
            raise ValueError("Airflow can't read it; is a field misspelt?")
        config = Config(**defaults)
        for more in (conn_config.botocore_config, Config(**(fixed or {}))):
            config = config.merge(more) if more else config
        # Not `S3Hook.get_conn`: for a name in the user agent it looks through all loaded modules, 0.1 s in each task.
        session = S3Hook(aws_conn_id=conn_id, config=config).get_session()
        endpoint = conn_config.get_service_endpoint_url(service_name="s3")
        return session.client("s3", endpoint_url=endpoint, config=config, verify=conn_config.verify)
    except Exception as error:
        # The provider, botocore and STS raise errors of their own; none of them shows the secret.
        raise KintsugiError(
            f"the connection {conn_id} gives no S3 client: {' '.join(str(error).split())}"
        ) from error


def data_sources(settings: Settings, purpose: S3Purpose) -> tuple[DataSource, ...]:
    """Return the buckets that market data is read from: the installation's own, then the user's (`data_connection`).

    ``purpose``: whose key reads the own bucket. That one comes first, because it holds synthetic trades and sample
    data. Raises KintsugiError if the user's connection can't be used.
    """
    from kintsugi.core.data_source import own_source  # start-up

    own = own_source(s3_client(settings, purpose))
    conn = data_connection()
    if conn is None:
        return (own,)
    from kintsugi.core.user_bucket import combine_sources, user_source  # cycle

    return combine_sources(own, user_source(conn))


def client_of(settings: Settings, bucket: str) -> Any:
    """Return a client that reads ``bucket``: the user's if the connection ``kintsugi_data`` names it, else our own.

    Raises KintsugiError if the user's connection can't be used.
    """
    sources = data_sources(settings, S3Purpose.MONITOR)
    return next((source.client for source in sources if source.bucket == bucket), sources[0].client)


def reachable_sources(settings: Settings, purpose: S3Purpose) -> tuple[DataSource, ...]:
    """Return `data_sources`, without the user's bucket if its connection can't be used now.

    The ingest uses it, so that synthetic trades still arrive. The watchdog pages about the bucket.
    """
    from kintsugi.core.data_source import own_source  # start-up

    try:
        return data_sources(settings, purpose)
    except KintsugiError as error:
        log.warning("%s; only the installation's own bucket is read", error)
        return (own_source(s3_client(settings, purpose)),)


def data_connection() -> dict[str, Any] | None:
    """Return the user's connection ``kintsugi_data``: from the environment, else from the user's connections file.

    Control plane and tasks have it in the environment; the command line and the Spark driver read the file.
    """
    from kintsugi.core.user_connections import user_connections  # start-up

    return read_connection(DATA_CONNECTION) or user_connections().get(DATA_CONNECTION)

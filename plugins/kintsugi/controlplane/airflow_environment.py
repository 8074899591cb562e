"""Airflow's configuration, as environment variables: nothing is read from an ``airflow.cfg``.

It is in ``control/airflow.env`` (0600), in a form that ``sh`` can source::

    set -a; . /var/lib/kintsugi/control/airflow.env; set +a; .venv/bin/airflow dags list
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.controlplane import accounts, airflow_patches
from kintsugi.controlplane.airflow_keys import key_environment
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, STORE_DATABASE, USER, Postgres
from kintsugi.core.connections import S3_CONNECTION, own_s3_connection, s3_connection
from kintsugi.core.files import write_private
from kintsugi.core.fleet import Role
from kintsugi.core.processes import MARKER, PART
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import (
    CASSANDRA_PORT,
    KAFKA_PORT,
    KEYSPACE,
    SPARK_MASTER_PORT,
    allowed_variables,
)
from kintsugi.core.user_connections import user_connections
from kintsugi.telemetry.backend import CONNECTION as OTLP
from kintsugi.telemetry.backend import load_backend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kintsugi.core.settings import Settings

AIRFLOW_PART = "airflow"  # marks Airflow's processes and all that its tasks start
AUTH_MANAGER = "AIRFLOW__CORE__AUTH_MANAGER"
OWN_AUTH_MANAGER = "kintsugi.airflow_ext.auth_manager.AccountsAuthManager"
_AUTH_PREFIXES = ("AIRFLOW__FAB__", "AIRFLOW__KEYCLOAK_AUTH_MANAGER__")

# The variables that a program inherits from the shell of `kintsugi up`. A proxy or a credential of the user is none of
# them, unless KINTSUGI_INHERIT names it.
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "USER",
    "LOGNAME",
    "JAVA_HOME",
    "TMPDIR",
    "SSL_CERT_FILE",
)
_INHERITED_PREFIXES = ("KINTSUGI_", "OTEL_", "HONEYCOMB_")


def base_environment(settings: Settings, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of every program of the control plane: paths of this installation, and its mark."""
    own = Path(
        sys.executable
    ).parent  # the virtual environment's programs: airflow, ansible-playbook, terraform
    return allowed_variables(inherited, _INHERITED, _INHERITED_PREFIXES) | {
        "PATH": f"{own}:{inherited.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin",
        "PYTHONPATH": str(settings.repository / "plugins"),
        "PYTHONUNBUFFERED": "1",
        "KINTSUGI_STATE": str(settings.state),
        "KINTSUGI_CACHE": str(settings.cache),
        "KINTSUGI_FLEET": str(settings.fleet_file),
        "SPT_NOENV": "1",
        MARKER: str(settings.control),
    }


def airflow_environment(settings: Settings, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return all of Airflow's settings and the project's connections, with secrets.

    ``inherited``: the variables of who starts it; those of `auth_environment` and `KINTSUGI_USERS` count.
    """
    return {
        "AIRFLOW_HOME": str(settings.control / "airflow"),
        **_option_variables(settings),
        **key_environment(settings),
        **auth_environment(settings, inherited),
        **connection_environment(settings),
        **telemetry_environment(user_connections()),
        PART: AIRFLOW_PART,
        "SCARF_ANALYTICS": "false",
        "DO_NOT_TRACK": "1",
    }


def auth_environment(settings: Settings, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that say how users sign in: our own accounts, unless the user chose another auth manager.

    Another one is set by Airflow's own variable, with the variables of the sections ``fab`` and
    ``keycloak_auth_manager``. Its users are its own.
    """
    if has_own_accounts(inherited):
        users = accounts.load_accounts(settings, inherited)
        return {
            AUTH_MANAGER: OWN_AUTH_MANAGER,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": accounts.airflow_users(users),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(accounts.passwords_file(settings)),
        }
    theirs = {name: value for name, value in inherited.items() if name.startswith(_AUTH_PREFIXES)}
    return {AUTH_MANAGER: inherited[AUTH_MANAGER], **theirs}


def has_own_accounts(inherited: Mapping[str, str] = os.environ) -> bool:
    """Whether users sign in with our own accounts: no other auth manager is set."""
    return inherited.get(AUTH_MANAGER, "") in ("", OWN_AUTH_MANAGER)


def connection_environment(settings: Settings) -> dict[str, str]:
    """Return the variables of the project's and the user's connections, in Airflow's form, with secrets."""
    connections = {**own_connections(settings), **user_connections()}
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}


def telemetry_environment(own: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Return the variables that switch on Airflow's metrics and traces; none without ``kintsugi_otlp``."""
    target = load_backend(own.get(OTLP)) if OTLP in own else None
    if target is None:
        return {}
    return {
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "AIRFLOW__TRACES__OTEL_ON": "True",
        # A backend that hangs must not block the slot of a finished task.
        "AIRFLOW__TRACES__TASK_RUNNER_FLUSH_TIMEOUT_MILLISECONDS": "1000",
        "OTEL_SERVICE_NAME": "airflow",
        **target.environment(),
    }


def own_connections(settings: Settings) -> dict[str, dict[str, object]]:
    """Return the connections of the project by connection id, in Airflow's JSON form.

    S3 has one for each purpose. ``kintsugi_s3``, which had all rights in version 0.1, is that of ``monitor``.
    """
    fleet, postgres = settings.fleet, Postgres.of(settings)
    s3 = {s3_connection(purpose): own_s3_connection(settings, purpose) for purpose in S3Purpose}
    cassandra = ",".join(node.address for node in fleet.of(Role.CASSANDRA))
    master = next((node.address for node in fleet.of(Role.SPARK_MASTER)), "")
    return {
        **s3,
        S3_CONNECTION: s3[s3_connection(S3Purpose.MONITOR)],
        "kintsugi_store": {
            "conn_type": "postgres",
            "host": str(postgres.socket),
            "port": postgres.port,
            "login": USER,
            "schema": STORE_DATABASE,
        },
        "kintsugi_kafka": {
            "conn_type": "kafka",
            "extra": {"bootstrap.servers": ",".join(fleet.endpoints(Role.KAFKA, KAFKA_PORT))},
        },
        "kintsugi_cassandra": {
            "conn_type": "cassandra",
            "host": cassandra,
            "port": CASSANDRA_PORT,
            "schema": KEYSPACE,
        },
        "kintsugi_spark": {
            "conn_type": "spark",
            "host": f"spark://{master}",
            "port": SPARK_MASTER_PORT,
            "extra": {"deploy-mode": "client"},
        },
    }


def write_environment(path: Path, environment: Mapping[str, str]) -> bool:
    """Write ``environment`` to ``path`` (0600) so that ``sh`` can source it; returns whether it changed."""
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(environment.items()))
    if path.exists() and path.read_text() == text:
        return False
    write_private(path, text)
    return True


def read_environment(path: Path) -> dict[str, str]:
    """Return the variables that `write_environment` wrote to ``path``; none if the file doesn't exist."""
    if not path.exists():
        return {}
    return dict(line.split("=", 1) for line in shlex.split(path.read_text()))


def _option_variables(settings: Settings) -> dict[str, str]:
    """Return ``AIRFLOW__SECTION__OPTION`` for every option that we set."""
    sections = {**_core_options(settings), **_timing_options(settings)}
    return {
        f"AIRFLOW__{section.upper()}__{option.upper()}": value
        for section, options in sections.items()
        for option, value in options.items()
    }


PARALLELISM = 12
"""Number of workers, which the executor forks at its start; the slots of `control_plane.POOLS` fit into them."""


OTHER_TRIGGERS = 200
"""Room in the triggerer beside one watch a node: the stream, new files, questions to a person."""


def _core_options(settings: Settings) -> dict[str, dict[str, str]]:
    plane = settings.fleet.control_plane
    home = settings.control / "airflow"
    return {
        "core": {
            "dags_folder": str(settings.repository / "dags"),
            "plugins_folder": str(settings.repository / "plugins"),
            "executor": "LocalExecutor",  # the scheduler replaces it (airflow_patches)
            "parallelism": str(PARALLELISM),
            "load_examples": "False",
            "execution_api_server_url": f"http://{plane.address}:{plane.airflow_port}/execution/",
            "min_serialized_dag_update_interval": "5",
            "test_connection": "Disabled",
        },
        "database": {
            "sql_alchemy_conn": _sqlalchemy_url(settings, "psycopg2"),
            "sql_alchemy_conn_async": _sqlalchemy_url(settings, "asyncpg"),
            "sql_alchemy_pool_size": "5",
        },
        "api": {
            "host": plane.address,
            "port": str(plane.airflow_port),
            "base_url": f"http://{plane.address}:{plane.airflow_port}",
            "workers": "1",
            "instance_name": "Kintsugi",
            "expose_config": "False",
        },
        "logging": {
            "base_log_folder": str(home / "logs"),
            "dag_processor_child_process_log_directory": str(home / "logs/dag_processor"),
            "colored_console_log": "False",
        },
    }


def _timing_options(settings: Settings) -> dict[str, dict[str, str]]:
    # A dead task is noticed within about 30 s instead of 300 s; that costs a heartbeat every 2 s.
    return {
        "scheduler": {
            # The patched scheduler needs no loop as long as nothing has changed; 1 s is Airflow's default.
            "scheduler_idle_sleep_time": "1" if airflow_patches.reason_for_stock_airflow() else "2",
            "scheduler_heartbeat_sec": "2",
            # A loop of the patched scheduler examines those of so many runs that have changed.
            "max_dagruns_per_loop_to_schedule": "500",
            "job_heartbeat_sec": "2",
            # A scheduler that was only not scheduled must not count itself as dead: it would reset all running tasks.
            "scheduler_health_check_threshold": "30",
            "orphaned_tasks_check_interval": "5",
            "task_instance_heartbeat_timeout": "30",
            "task_instance_heartbeat_timeout_detection_interval": "2",
            "catchup_by_default": "False",
        },
        # A task waits for a restart of the api-server (20 s on a busy machine) instead of using up a retry.
        "workers": {
            "min_heartbeat_interval": "2",
            "execution_api_retries": "10",
            "execution_api_retry_wait_max": "5",
        },
        "dag_processor": {
            "parsing_processes": "1",
            "min_file_process_interval": "600",
            "refresh_interval": "15",
            "print_stats_interval": "300",
        },
        # A watch that the triggerer has no room for would not run at all.
        "triggerer": {"capacity": str(OTHER_TRIGGERS + len(settings.fleet.nodes)), "job_heartbeat_sec": "2"},
    }


def _sqlalchemy_url(settings: Settings, driver: str) -> str:
    dsn = Postgres.of(settings).dsn(AIRFLOW_DATABASE)
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)

"""The settings of this installation: the paths of state, caches and secrets, and the ports of the roles.

Two installations (a demo and a test run) can run side by side if ``KINTSUGI_STATE`` and ``KINTSUGI_FLEET`` differ.
The artifact cache is shared and read-only for the nodes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.fleet import REPOSITORY, Fleet, Node, fleet_path, load_fleet

KAFKA_PORT = 9092
KAFKA_CONTROLLER_PORT = 9093
CASSANDRA_PORT = 9042
SPARK_MASTER_PORT = 7077
SPARK_MASTER_UI_PORT = 8080
SPARK_WORKER_UI_PORT = 8081

# Names of secrets in `Settings.secrets`, not their values.
SPARK_RPC_SECRET = "spark-rpc"  # noqa: S105
SPARK_UI_SECRET = "spark-ui"  # noqa: S105
CASSANDRA_JMX_SECRET = "cassandra-jmx"  # noqa: S105

BUCKET = "kintsugi"
KEYSPACE = "trades"
TOPIC = "trades"
DEAD_LETTER_TOPIC = "trades.dead-letter"
CONSUMER_GROUP = "stream_trades"


@dataclass(frozen=True, slots=True)
class Settings:
    """The paths of one installation.

    ``state``: everything that ``make down`` removes. ``cache``: artifacts, kept between runs.
    """

    state: Path
    cache: Path
    fleet_file: Path
    repository: Path = REPOSITORY

    @property
    def fleet(self) -> Fleet:
        return load_fleet(self.fleet_file)

    @property
    def artifacts(self) -> Path:
        """The directory of all sets of jars, see ``jars``."""
        return self.cache / "artifacts"

    def jars(self, name: str) -> Path:
        """The directory with the jars of the set ``name`` (``kafka``) that ``repository`` declares.

        It is named by the digest of the set's lock file. So the jars of two releases lie side by side, and a new
        version never replaces the jars of a running server. Releases from before the lock files have ``<name>/``.
        """
        try:
            lock = self.jar_lock(name).read_bytes()
        except FileNotFoundError:
            return self.artifacts / name
        return self.artifacts / f"{name}-{hashlib.sha256(lock).hexdigest()[:12]}"

    def jar_lock(self, name: str) -> Path:
        """The lock file of a set of jars: their SHA-256, as ``sha256sum`` writes them."""
        return self.repository / "artifacts" / name / "jars.sha256"

    def node_root(self, name: str) -> Path:
        """A local node's root directory: ``etc/ log/ run/``."""
        return self.state / "nodes" / name

    def node_volume(self, name: str) -> Path:
        """A local node's data volume."""
        return self.state / "volumes" / name

    @property
    def quarantine(self) -> Path:
        """The directory that keeps the roots and volumes of destroyed nodes until the new node is verified."""
        return self.state / "quarantine"

    @property
    def secrets(self) -> Path:
        return self.state / "secrets"

    @property
    def control(self) -> Path:
        """Working directory of the control plane: Postgres, S3, Airflow, logs."""
        return self.state / "control"

    def secret(self, name: str) -> str:
        """Return the secret called ``name``, created at first use (32 random bytes, hex), mode 0600."""
        path = self.secrets / name
        if not path.exists():
            self.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_name(f".{name}.{secrets.token_hex(4)}")
            fresh.touch(mode=0o600)
            fresh.write_text(secrets.token_hex(32))
            try:
                os.link(fresh, path)  # fails if another process created it first
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text()


def cassandra_jmx_port(node: Node) -> int:
    """Return the node's JMX port on 127.0.0.1: between 20000 and 32699, below the ports that Linux gives to clients.

    Cassandra binds JMX to loopback only, and the nodes of one machine share it. So the port follows from the last three
    numbers of the node's address.
    """
    _, second, third, fourth = ipaddress.IPv4Address(node.address).packed
    return 20000 + second % 127 * 100 + (third * 10 + fourth) % 100


def inherited(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables named in ``KINTSUGI_INHERIT`` (separated by commas), for every process of an installation.

    Without it, a user's proxy or package index would be known neither to Airflow nor to a node.
    """
    names = environment.get("KINTSUGI_INHERIT", "").split(",")
    return {name: environment[name] for name in names if name in environment}


def load_settings() -> Settings:
    """Return the settings from ``KINTSUGI_STATE``, ``KINTSUGI_CACHE`` and ``KINTSUGI_FLEET``, or the defaults."""
    root = os.geteuid() == 0
    home = Path.home()
    state = Path("/var/lib/kintsugi") if root else home / ".local/state/kintsugi"
    cache = Path("/var/cache/kintsugi") if root else home / ".cache/kintsugi"
    return Settings(
        state=Path(os.environ.get("KINTSUGI_STATE") or state),
        cache=Path(os.environ.get("KINTSUGI_CACHE") or cache),
        fleet_file=fleet_path(),
    )

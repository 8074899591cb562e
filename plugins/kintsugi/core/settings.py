"""The settings of this installation: the paths of state, caches and secrets, and the ports of the roles.

Two installations (a demo and a test run) can run side by side if ``KINTSUGI_STATE`` and ``KINTSUGI_FLEET`` differ.
The artifact cache is shared and read-only for the nodes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import secrets
import shlex
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.errors import PreflightError
from kintsugi.core.files import write_private, write_private_once
from kintsugi.core.fleet import REPOSITORY, Fleet, Node, fleet_path, load_fleet
from kintsugi.core.membership import Membership, fleet_in_force, known_fleet, read_membership

KAFKA_PORT = 9092
KAFKA_CONTROLLER_PORT = 9093
CASSANDRA_PORT = 9042
CASSANDRA_STORAGE_PORT = 7000
SPARK_MASTER_PORT = 7077
SPARK_MASTER_UI_PORT = 8080
SPARK_WORKER_UI_PORT = 8081

# Names of secrets in `Settings.secrets`, not their values.
SPARK_RPC_SECRET = "spark-rpc"  # noqa: S105
SPARK_UI_SECRET = "spark-ui"  # noqa: S105
CASSANDRA_JMX_SECRET = "cassandra-jmx"  # noqa: S105
PAGE_FORMS_SECRET = "page-forms"  # noqa: S105

BUCKET = "kintsugi"
KEYSPACE = "trades"
TOPIC = "trades"
DEAD_LETTER_TOPIC = "trades.dead-letter"
CONSUMER_GROUP = "stream_trades"

STOCK_AIRFLOW = "KINTSUGI_STOCK_AIRFLOW"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029\"'\\]")
"""What ends a line or a quoted word in a configuration file. sshd, supervisord and rsyslog read such files."""


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
        """The nodes in force: what the fleet file declares, as far as it was carried out (`core.membership`)."""
        return fleet_in_force(self.declared_fleet, self._membership())

    @property
    def declared_fleet(self) -> Fleet:
        """The fleet as the fleet file declares it."""
        return load_fleet(self.fleet_file)

    @property
    def known_fleet(self) -> Fleet:
        """Every node that is declared, in force, or being added."""
        return known_fleet(self.declared_fleet, self._membership())

    def _membership(self) -> Membership | None:
        # The fleet file of a release stands for itself: it says what the release configures.
        return None if self.control / "releases" in self.fleet_file.parents else read_membership(self.control)

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

    def node_tls(self, name: str) -> Path:
        """The directory of a local node's certificates."""
        return self.node_root(name) / "etc" / "tls"

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
    def tls(self) -> Path:
        """The directory of certificates and their keys, see `kintsugi.core.certificates`."""
        return self.secrets / "tls"

    @property
    def control(self) -> Path:
        """Working directory of the control plane: Postgres, S3, Airflow, logs."""
        return self.state / "control"

    def make_state(self) -> None:
        """Make the state directory, whatever the umask: only its owner writes there, and others may pass."""
        self.state.mkdir(mode=0o755, parents=True, exist_ok=True)

    def secret(self, name: str) -> str:
        """Return the secret called ``name``, created at first use (32 random bytes, hex), mode 0600."""
        path = self.secrets / name
        if not path.exists():
            self.make_state()
            self.secrets.mkdir(mode=0o700, exist_ok=True)
            write_private_once(path, secrets.token_hex(32))
        return path.read_text()


def replace_secret(settings: Settings, name: str) -> None:
    """Give the secret called ``name`` a new value; who uses it learns of it when he reads it again."""
    if (settings.secrets / name).exists():
        write_private(settings.secrets / name, secrets.token_hex(32))


def cassandra_jmx_port(node: Node) -> int:
    """Return the node's JMX port on 127.0.0.1: between 20000 and 32699, below the ports that Linux gives to clients.

    Cassandra binds JMX to loopback only, and the nodes of one machine share it. So the port follows from the last three
    numbers of the node's address.
    """
    _, second, third, fourth = ipaddress.IPv4Address(node.address).packed
    return 20000 + second % 127 * 100 + (third * 10 + fourth) % 100


def inherited_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables named in ``KINTSUGI_INHERIT`` (separated by commas), for every process of an installation.

    Without it, a user's proxy or package index would be known neither to Airflow nor to a node.
    """
    names = environment.get("KINTSUGI_INHERIT", "").split(",")
    found = {name: environment[name] for name in names if name in environment}
    for name, value in found.items():
        if not _VARIABLE.match(name) or _UNWRITABLE.search(value):
            raise PreflightError(
                f"KINTSUGI_INHERIT names {name!r}: its name or value has a line break, a quotation mark, a backslash "
                "or another character that would change a node's configuration. Change it, or name it no longer"
            )
    return found


def allowed_variables(
    environment: Mapping[str, str], names: Collection[str], prefixes: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return the variables of ``environment`` that a program gets: by name, by prefix, and `inherited_variables`."""
    return {
        name: value for name, value in environment.items() if name in names or name.startswith(prefixes)
    } | inherited_variables(environment)


def _check_path(name: str, path: Path) -> None:
    """Refuse a path that would become more than a path in the configuration files that contain it."""
    if _UNWRITABLE.search(str(path)) or set(str(path)) & set("%;${}`"):
        raise PreflightError(
            f"{name} is {str(path)!r}: a line break, a quotation mark or one of \\ % ; $ {{ }} ` would change "
            "configuration files. Choose another path"
        )


def _check_owner(path: Path) -> None:
    """Refuse a state directory in which another user can put or exchange files: our secrets lie in it."""
    try:
        # A link too: who owns it decides where it leads.
        owners = {path.lstat().st_uid, path.stat().st_uid}
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    where, me = shlex.quote(str(path)), os.geteuid()
    if not stat.S_ISDIR(mode):
        raise PreflightError(f"KINTSUGI_STATE is {where}, which is not a directory: set it to another path")
    if owners != {me}:
        raise PreflightError(
            f"KINTSUGI_STATE is {where}, which belongs to another user (uid {max(owners - {me})}, you are {me}): "
            f"set it to a directory of yours, or run `chown {me} {where}` if nobody else has written into it"
        )
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PreflightError(
            f"KINTSUGI_STATE is {where}, into which other users may write: run `chmod go-w {where}` if nobody else has "
            "written into it, or set it to another path"
        )


def wants_stock_airflow(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Airflow is to run without our patches (docs/decisions/0134): ``KINTSUGI_STOCK_AIRFLOW`` is set, not 0."""
    return environment.get(STOCK_AIRFLOW, "").lower() not in ("", "0", "false", "no")


def load_settings() -> Settings:
    """Return the settings from ``KINTSUGI_STATE``, ``KINTSUGI_CACHE`` and ``KINTSUGI_FLEET``, or the defaults."""
    root = os.geteuid() == 0
    home = Path.home()
    state = Path("/var/lib/kintsugi") if root else home / ".local/state/kintsugi"
    cache = Path("/var/cache/kintsugi") if root else home / ".cache/kintsugi"
    found = Settings(
        state=Path(os.environ.get("KINTSUGI_STATE") or state),
        cache=Path(os.environ.get("KINTSUGI_CACHE") or cache),
        fleet_file=fleet_path(),
    )
    _check_path("KINTSUGI_STATE", found.state)
    _check_path("KINTSUGI_CACHE", found.cache)
    _check_path("KINTSUGI_FLEET", found.fleet_file)
    _check_owner(found.state)
    return found

"""What each principal may do: the access control list of Kafka, and the roles of Cassandra.

==========  =========================================  ==========================================
principal   Kafka                                      Cassandra
==========  =========================================  ==========================================
ingest      writes trades and dead letters, asks for   nothing
            the backlog
stream      reads trades, writes dead letters, group   reads and writes the tables, adds columns
page        nothing                                    reads the tables
probe       describes cluster, topics and groups       reads the tables, and those of the system
recovery    administers (super user)                   administers (super user)
==========  =========================================  ==========================================

The brokers' own principal is a super user of Kafka. Cassandra's role ``cassandra``, whose password everybody knows, is
dropped as soon as ``recovery`` exists. Until then only a client with a certificate could use it.

In Cassandra the rights belong to a role that can't log in (``stream``). Who logs in (``stream_3fa9c01b``) is granted
it, so a rotation makes another login while the old one still works.

A node reads roles from its own disk alone, and a change is complete when a majority has it. So what builds on a role
waits until every node has it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Login, Principal
from kintsugi.core.client_tls import client_context, current_login
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import CONSUMER_GROUP, DEAD_LETTER_TOPIC, KEYSPACE, TOPIC
from kintsugi.pipeline.cassandra_session import open_session, session_scope, shut_down_after, tuned_cluster

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from cassandra.pool import Host
    from kafka import KafkaAdminClient

SPARK_GROUPS = "spark-kafka-source-"
"""The groups of Spark's Kafka source begin so; it commits nothing to them."""

ROLE_SECONDS = 20.0
"""How long a change of a role may take to reach every node."""

UNUSED_SECONDS = 60.0
"""How long a client may still use an old login."""

_CLIENTS = "SELECT username FROM system_views.clients"
_CLUSTER = "kafka-cluster"  # as Kafka calls it in the list
_DEFAULT_ROLE = "cassandra"
_LOGIN = re.compile(rf"(?:{'|'.join(Principal)})_[0-9a-f]{{8}}\Z", re.ASCII)

_KAFKA = (
    (Principal.INGEST, "topic", TOPIC, "write"),
    (Principal.INGEST, "topic", DEAD_LETTER_TOPIC, "write"),
    (Principal.INGEST, "group", CONSUMER_GROUP, "describe"),
    # It waits when the stream is behind, so it asks how large the topic is and may become.
    (Principal.INGEST, "topic", TOPIC, "describe_configs"),
    (Principal.INGEST, "cluster", _CLUSTER, "describe"),
    (Principal.STREAM, "topic", TOPIC, "read"),
    (Principal.STREAM, "topic", DEAD_LETTER_TOPIC, "write"),
    (Principal.STREAM, "group", CONSUMER_GROUP, "read"),
    (Principal.STREAM, "group", f"{SPARK_GROUPS}*", "read"),
    (Principal.PROBE, "cluster", _CLUSTER, "describe"),
    (Principal.PROBE, "topic", "*", "describe"),
    (Principal.PROBE, "group", "*", "describe"),
)
_CASSANDRA = (
    (Principal.STREAM, ("SELECT", "MODIFY", "ALTER"), f"KEYSPACE {KEYSPACE}"),
    (Principal.PAGE, ("SELECT",), f"KEYSPACE {KEYSPACE}"),
    (Principal.PROBE, ("SELECT",), f"KEYSPACE {KEYSPACE}"),
    (Principal.PROBE, ("SELECT",), "KEYSPACE system_views"),
    (
        Principal.PROBE,
        ("SELECT",),
        "KEYSPACE system_distributed",
    ),  # a range that has all its replicas can be read
)

ROLES = tuple(dict.fromkeys(principal for principal, _, _ in _CASSANDRA))
"""The principals that have a role in Cassandra beside ``recovery``."""


def authorize_in_kafka(admin: KafkaAdminClient) -> None:
    """Give every principal its rights in Kafka; those that exist stay. Without TLS there is nothing to do.

    Raises KintsugiError when Kafka refuses one.
    """
    if client_context(Principal.RECOVERY) is None:
        return
    outcome = admin.create_acls([_access(*one) for one in _KAFKA])
    if outcome["failed"]:
        raise KintsugiError(f"Kafka refused rights of its principals: {outcome['failed']}")


def _access(principal: Principal, kind: str, name: str, operation: str) -> Any:
    """One entry of Kafka's access control list; a name that ends in ``*`` stands for all that begin so."""
    from kafka.admin import (
        ACL,
        ACLOperation,
        ACLPermissionType,
        ACLResourcePatternType,
        ResourcePattern,
        ResourceType,
    )

    prefixed = name.endswith("*") and name != "*"
    pattern = ResourcePattern(
        ResourceType[kind.upper()],
        name.removesuffix("*") if prefixed else name,
        ACLResourcePatternType.PREFIXED if prefixed else ACLResourcePatternType.LITERAL,
    )
    return ACL(f"User:{principal}", "*", ACLOperation[operation.upper()], ACLPermissionType.ALLOW, pattern)


def ensure_super_role(contact_points: list[str], timeout: float = 60.0) -> None:
    """Make sure that ``recovery`` can log in to Cassandra, and that no role exists that everybody knows.

    Does nothing without TLS. Raises KintsugiError when that isn't so within ``timeout`` seconds.
    """
    if client_context(Principal.RECOVERY) is None:
        return
    deadline = time.monotonic() + timeout
    while True:
        try:
            with session_scope(contact_points, Principal.RECOVERY, keyspace=None) as session:
                session.execute(f"DROP ROLE IF EXISTS {_DEFAULT_ROLE}")
            return
        except Exception as error:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"Cassandra on {', '.join(contact_points)} doesn't let {Principal.RECOVERY} in: {error}"
                ) from error
        _create_super_role(contact_points)
        time.sleep(0.5)


def _create_super_role(contact_points: list[str]) -> None:
    """Create ``recovery`` by the role that a new cluster begins with; without that role nothing happens."""
    from cassandra.auth import PlainTextAuthProvider

    cluster = tuned_cluster(
        contact_points,
        ssl_context=client_context(Principal.RECOVERY),
        auth_provider=PlainTextAuthProvider(_DEFAULT_ROLE, _DEFAULT_ROLE),
    )
    try:
        with shut_down_after(open_session(cluster, None)) as session:
            _create_role(session, Principal.RECOVERY, "SUPERUSER = true")
            create_login(session, current_login(Principal.RECOVERY))
    except KintsugiError:
        return


def authorize_in_cassandra(session: Session) -> None:
    """Create the roles of the other principals, and give them their rights; ``session`` is one of ``recovery``."""
    if client_context(Principal.RECOVERY) is None:
        return
    for principal in ROLES:
        _create_role(session, principal)
        create_login(session, current_login(principal))
    for principal, rights, resource in _CASSANDRA:
        for right in rights:
            session.execute(f"GRANT {right} ON {resource} TO {principal}")


def create_login(session: Session, login: Login) -> None:
    """Let ``login`` in at every node, with the rights of its principal; one that exists stays as it is.

    Raises KintsugiError when a node doesn't know the login within ROLE_SECONDS.
    """
    # Its name and password are of our own letters and digits, and no prepared statement can create a role.
    granted = _create_role(session, login.role, f"PASSWORD = '{login.password}' AND LOGIN = true")
    if login.principal.value not in granted:  # Cassandra refuses to grant a role twice
        session.execute(f"GRANT {login.principal} TO {login.role}")
        _await_role(session, login.role, {login.principal.value})


def _await_unused(session: Session, logins: set[str]) -> None:
    """Wait until no node has a client with one of these logins. Raises KintsugiError, also if a node isn't up."""
    deadline = time.monotonic() + UNUSED_SECONDS
    for host in session.cluster.metadata.all_hosts():
        while (obstacle := _obstacle_to_drop(session, host, logins)) is not None:
            if time.monotonic() > deadline:
                raise KintsugiError(f"no login was dropped: {obstacle}; then clear this task")
            time.sleep(0.5)


def _obstacle_to_drop(session: Session, host: Host, logins: set[str]) -> str | None:
    """Why ``logins`` can't be dropped yet, as far as one node knows, and what to do; None if it knows no reason."""
    from cassandra.cluster import NoHostAvailable

    try:
        used = logins & {row.username for row in session.execute(_CLIENTS, host=host)}
    except NoHostAvailable:
        return f"{host.address} can't say who is connected: wait until it is healthy (`make status`)"
    if not used:
        return None
    names = ", ".join(sorted(used))
    return (
        f"a client of {host.address} still uses {names}: restart it, it reads its new login when it connects"
    )


def _create_role(session: Session, role: str, options: str = "") -> set[str]:
    """Create ``role`` at every node, unless it exists; returns the roles that it is granted on all of them."""
    session.execute(f"CREATE ROLE IF NOT EXISTS {role}{options and f' WITH {options}'}")
    return _await_role(session, role, set())


def _await_role(session: Session, role: str, granted: set[str]) -> set[str]:
    """Wait until every node that is up knows ``role`` and that it is ``granted`` these; returns what all grant it."""
    deadline = time.monotonic() + ROLE_SECONDS
    known: list[set[str]] = []
    for host in [host for host in session.cluster.metadata.all_hosts() if host.is_up is not False]:
        while (roles := _roles_at(session, host, role)) is None or not granted <= roles:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"{host.address} doesn't know the role {role} after {ROLE_SECONDS:.0f} s: "
                    "look at the node in `make status`, and try again when it is healthy"
                )
            time.sleep(0.1)
        known.append(roles)
    return set.intersection(*known) if known else set()


def _roles_at(session: Session, host: Host, role: str) -> set[str] | None:
    """The roles that one node knows ``role`` to be granted; None while it doesn't know the role, or can't be asked."""
    from cassandra import InvalidRequest
    from cassandra.cluster import NoHostAvailable

    try:
        return {row.role for row in session.execute(f"LIST ROLES OF {role}", host=host)}
    except (InvalidRequest, NoHostAvailable):
        return None


def drop_other_logins(session: Session, kept: Collection[Login]) -> list[str]:
    """Drop every login of ours that isn't one of ``kept``, and return their names; roles of other people stay.

    Raises KintsugiError when a client still uses one after UNUSED_SECONDS; then none is dropped.
    """
    names = {login.role for login in kept}
    roles = [row.role for row in session.execute("LIST ROLES")]
    others = sorted(name for name in roles if _LOGIN.match(name) and name not in names)
    _await_unused(session, set(others))
    for name in others:
        session.execute(f"DROP ROLE IF EXISTS {name}")
    return others

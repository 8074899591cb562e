"""What each principal may do: the access control list of Kafka, and the roles of Cassandra.

==========  =========================================  ==========================================
principal   Kafka                                      Cassandra
==========  =========================================  ==========================================
ingest      writes trades and dead letters             nothing
stream      reads trades, writes dead letters, group   reads and writes the tables, adds columns
page        nothing                                    reads the tables
probe       describes cluster, topics and groups       reads the tables and the views of a node
recovery    administers (super user)                   administers (super user)
==========  =========================================  ==========================================

The brokers' own principal is a super user of Kafka. Cassandra's role ``cassandra``, whose password everybody knows, is
dropped as soon as ``recovery`` exists. Until then only a client with a certificate could use it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import cassandra_password, client_context
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import CONSUMER_GROUP, DEAD_LETTER_TOPIC, KEYSPACE, TOPIC
from kintsugi.pipeline.cassandra_session import open_session, shut_down_after, tuned_cluster

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from kafka import KafkaAdminClient

SPARK_GROUPS = "spark-kafka-source-"
"""The groups of Spark's Kafka source begin so; it commits nothing to them."""

_DEFAULT_ROLE = "cassandra"

_KAFKA = (
    (Principal.INGEST, "topic", TOPIC, "write"),
    (Principal.INGEST, "topic", DEAD_LETTER_TOPIC, "write"),
    (Principal.INGEST, "group", CONSUMER_GROUP, "describe"),
    (Principal.STREAM, "topic", TOPIC, "read"),
    (Principal.STREAM, "topic", DEAD_LETTER_TOPIC, "write"),
    (Principal.STREAM, "group", CONSUMER_GROUP, "read"),
    (Principal.STREAM, "group", f"{SPARK_GROUPS}*", "read"),
    (Principal.PROBE, "cluster", "kafka-cluster", "describe"),
    (Principal.PROBE, "topic", "*", "describe"),
    (Principal.PROBE, "group", "*", "describe"),
)
_CASSANDRA = (
    (Principal.STREAM, ("SELECT", "MODIFY", "ALTER"), f"KEYSPACE {KEYSPACE}"),
    (Principal.PAGE, ("SELECT",), f"KEYSPACE {KEYSPACE}"),
    (Principal.PROBE, ("SELECT",), f"KEYSPACE {KEYSPACE}"),
    (Principal.PROBE, ("SELECT",), "KEYSPACE system_views"),
)


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
    """Make sure that Cassandra has the role ``recovery`` and no role that everybody knows; nothing without TLS.

    Raises KintsugiError when that isn't so within ``timeout`` seconds.
    """
    if client_context(Principal.RECOVERY) is None:
        return
    deadline = time.monotonic() + timeout
    while True:
        try:
            with shut_down_after(_open_as(contact_points, Principal.RECOVERY)) as session:
                session.execute(f"DROP ROLE IF EXISTS {_DEFAULT_ROLE}")
            return
        except Exception as error:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"Cassandra on {', '.join(contact_points)} doesn't accept its role {Principal.RECOVERY}: {error}"
                ) from error
        _create_super_role(contact_points)
        time.sleep(0.5)


def _create_super_role(contact_points: list[str]) -> None:
    """Create ``recovery`` by the role that a new cluster begins with; without that role nothing happens."""
    try:
        with shut_down_after(_open_as(contact_points, None)) as session:
            _put_role(session, Principal.RECOVERY, superuser=True)
    except KintsugiError:
        return


def authorize_in_cassandra(session: Session) -> None:
    """Create the roles of the other principals, and give them their rights; ``session`` is one of ``recovery``."""
    if client_context(Principal.RECOVERY) is None:
        return
    for principal in dict.fromkeys(principal for principal, _, _ in _CASSANDRA):
        _put_role(session, principal)
    for principal, rights, resource in _CASSANDRA:
        for right in rights:
            session.execute(f"GRANT {right} ON {resource} TO {principal}")


def _put_role(session: Session, principal: Principal, *, superuser: bool = False) -> None:
    # The password consists of hexadecimal digits, and a role can't be created by a prepared statement.
    options = (
        f"WITH PASSWORD = '{cassandra_password(principal)}' AND LOGIN = true AND SUPERUSER = {superuser}"
    )
    session.execute(f"CREATE ROLE IF NOT EXISTS {principal} {options}")


def _open_as(contact_points: list[str], principal: Principal | None) -> Session:
    """Connect as ``principal``, or as the default role; always with the certificate of ``recovery``."""
    from cassandra.auth import PlainTextAuthProvider

    name = _DEFAULT_ROLE if principal is None else principal.value
    password = _DEFAULT_ROLE if principal is None else cassandra_password(principal)
    cluster = tuned_cluster(
        contact_points,
        ssl_context=client_context(Principal.RECOVERY),
        auth_provider=PlainTextAuthProvider(name, password),
    )
    return open_session(cluster, None)

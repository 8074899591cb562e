"""How our clients of Kafka and Cassandra prove who they are, and check whom they talk to.

1. A client shows the certificate of its principal; a server shows one for its address. Both are of the installation's
   own authority (`kintsugi.core.certificates`).
2. Kafka takes the principal from the certificate. Cassandra asks for a role and its password too, because its own way
   to take a role from a certificate can't be prepared before the first start (docs/decisions/0143).
3. The control plane has the certificates and passwords of every principal. A node has only those that it needs, in the
   directory that ``KINTSUGI_TLS_DIRECTORY`` names there.

An installation without an authority (``mutual_tls: false`` in the fleet file) proves nothing and encrypts nothing.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any

from kintsugi.core.certificates import (
    Login,
    Principal,
    client_certificate,
    has_authority,
    login_file,
    trust_file,
)
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import load_settings

TLS_DIRECTORY = "KINTSUGI_TLS_DIRECTORY"
"""The directory with ``trust.pem`` and ``<principal>.pem``. Empty: without TLS. Unset: the control plane's own."""


def client_context(principal: Principal) -> ssl.SSLContext | None:
    """Return what a TLS connection of ``principal`` needs, None without TLS.

    Raises KintsugiError when this process may not act as ``principal``, because its certificate isn't here.
    """
    files = _client_files(principal)
    if files is None:
        return None
    certificate, trust = files
    try:
        # Renewed certificates are other files to the cache.
        return _load_context(certificate, certificate.stat().st_mtime_ns, trust, trust.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise KintsugiError(_missing_file(error.filename, principal)) from error


def kafka_options(principal: Principal) -> dict[str, Any]:
    """Return the arguments of kafka-python's clients for a connection as ``principal``."""
    context = client_context(principal)
    return {} if context is None else {"security_protocol": "SSL", "ssl_context": context}


def cassandra_options(principal: Principal) -> dict[str, Any]:
    """Return the arguments of the Cassandra driver's ``Cluster`` for a connection as ``principal``."""
    context = client_context(principal)
    if context is None:
        return {}
    from cassandra.auth import AuthProvider, PlainTextAuthenticator

    class CurrentLogin(AuthProvider):  # type: ignore[misc]  # the driver has no types
        """Reads the login at each connection, because a rotation replaces it while we run."""

        def new_authenticator(self, host: Any) -> PlainTextAuthenticator:
            login = current_login(principal)
            return PlainTextAuthenticator(login.role, login.password)

    return {"ssl_context": context, "auth_provider": CurrentLogin()}


def cassandra_login(principal: Principal) -> Login | None:
    """Return the login of ``principal`` in Cassandra, None without TLS; raises KintsugiError if it isn't here."""
    files = _client_files(principal)
    if files is None:
        return None
    path = files[0].with_suffix(".login")
    try:
        return Login.read(path, principal)
    except FileNotFoundError as error:
        raise KintsugiError(_missing_file(path, principal)) from error


def current_login(principal: Principal) -> Login:
    """Return `cassandra_login` of an installation with TLS; raises KintsugiError without TLS too."""
    login = cassandra_login(principal)
    if login is None:
        raise KintsugiError(
            "this installation was made with mutual_tls: false, so it has no certificates and no logins in Cassandra"
        )
    return login


def spark_kafka_options(principal: Principal) -> dict[str, str]:
    """Return the options of Spark's Kafka source for a connection as ``principal``.

    Each executor finds the files in its own node's directory: Kafka's client reads the variable where it runs.
    """
    if _client_files(principal) is None:
        return {}
    directory = f"${{env:{TLS_DIRECTORY}}}"
    return {
        "kafka.config.providers": "env",
        "kafka.config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
        "kafka.security.protocol": "SSL",
        "kafka.ssl.keystore.type": "PEM",
        "kafka.ssl.keystore.location": f"{directory}/{principal}.pem",
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.location": f"{directory}/trust.pem",
    }


def _missing_file(path: Path | str, principal: Principal) -> str:
    return (
        f"{path} is missing, so this process can't connect as {principal}: run the playbook site.yml for a node, "
        "and `make up` for the control plane"
    )


def _client_files(principal: Principal) -> tuple[Path, Path] | None:
    """The certificate of ``principal`` with its key, and the certificate of the authority; None without TLS."""
    given = os.environ.get(TLS_DIRECTORY)
    if given is not None:
        return (Path(given) / f"{principal}.pem", Path(given) / "trust.pem") if given else None
    settings = load_settings()
    if not has_authority(settings):
        return None
    login_file(settings, principal)
    return client_certificate(settings, principal), trust_file(settings)


@lru_cache(maxsize=32)
def _load_context(certificate: Path, _certificate_at: int, trust: Path, _trust_at: int) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(trust))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate)
    return context

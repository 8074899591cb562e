"""The rival's configuration, and how it logs in to Kafka and Cassandra: as ``recovery``, in files of mode 0600.

Spark puts what its application configures into the arguments of its JVM, where every user of the machine can read it.
So passwords stand in ``spark-defaults.conf`` of a directory that ``SPARK_CONF_DIR`` names.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from kintsugi.core.certificates import Login, Principal, client_certificate, has_authority, trust_file
from kintsugi.core.client_tls import current_login
from kintsugi.core.files import write_private
from kintsugi.core.settings import Settings

DEFAULTS = "spark-defaults.conf"
KEY_STORE, TRUST_STORE = "client.p12", "trust.p12"
_SSL = "spark.cassandra.connection.ssl"


def kafka_options(settings: Settings, bootstrap: Sequence[str]) -> dict[str, str]:
    """Return the options of Spark's Kafka source; the key stays in the file of ``recovery``."""
    options = {"kafka.bootstrap.servers": ",".join(bootstrap)}
    if not has_authority(settings):
        return options
    return options | {
        "kafka.security.protocol": "SSL",
        "kafka.ssl.keystore.type": "PEM",
        "kafka.ssl.keystore.location": str(client_certificate(settings, Principal.RECOVERY)),
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.location": str(trust_file(settings)),
    }


def write_configuration(
    settings: Settings, folder: Path, contact_points: Sequence[str], datacenter: str, jars: Sequence[Path]
) -> None:
    """Write Spark's configuration and the stores of certificates into the new directory ``folder`` (0700)."""
    folder.mkdir(mode=0o700, parents=True)
    configuration = spark_configuration(contact_points, datacenter, jars)
    if has_authority(settings):
        password = secrets.token_hex(32)
        certificate = client_certificate(settings, Principal.RECOVERY).read_bytes()
        _write_stores(folder, certificate, trust_file(settings).read_bytes(), password.encode())
        configuration |= tls_configuration(folder, current_login(Principal.RECOVERY), password)
    write_private(folder / DEFAULTS, format_properties(configuration))


def spark_configuration(
    contact_points: Sequence[str], datacenter: str, jars: Sequence[Path]
) -> dict[str, str]:
    """Return what holds for every drain, without secrets."""
    return {
        "spark.jars": ",".join(map(str, jars)),
        "spark.driver.memory": "2g",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.streaming.numRecentProgressUpdates": "10000",
        "spark.cassandra.connection.host": ",".join(contact_points),
        "spark.cassandra.connection.localDC": datacenter,
        "spark.cassandra.output.consistency.level": "LOCAL_QUORUM",
    }


def tls_configuration(folder: Path, login: Login, password: str) -> dict[str, str]:
    """Return how the connector logs in by TLS; ``password`` opens both stores in ``folder``."""
    return {
        "spark.cassandra.auth.username": login.role,
        "spark.cassandra.auth.password": login.password,
        f"{_SSL}.enabled": "true",
        f"{_SSL}.clientAuth.enabled": "true",
        f"{_SSL}.keyStore.type": "PKCS12",
        f"{_SSL}.keyStore.path": str(folder / KEY_STORE),
        f"{_SSL}.keyStore.password": password,
        f"{_SSL}.trustStore.type": "PKCS12",
        f"{_SSL}.trustStore.path": str(folder / TRUST_STORE),
        f"{_SSL}.trustStore.password": password,
        # Its defaults are two of TLS 1.2, which our servers don't speak.
        f"{_SSL}.enabledAlgorithms": "TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384",
    }


def format_properties(configuration: Mapping[str, str]) -> str:
    """Return ``configuration`` as a file of Java properties."""
    return "".join(f"{name} {value}\n" for name, value in configuration.items())


def _write_stores(folder: Path, certificate: bytes, trusted: bytes, password: bytes) -> None:
    """Write a client's key and certificate, and the trusted authorities, in the form that the connector reads."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        load_pem_private_key,
        pkcs12,
    )

    encryption = BestAvailableEncryption(password)
    own, *others = x509.load_pem_x509_certificates(certificate)
    key = load_pem_private_key(certificate, None)
    write_private(
        folder / KEY_STORE,
        pkcs12.serialize_key_and_certificates(b"rival", key, own, others, encryption),  # type: ignore[arg-type]
    )
    authorities = [
        pkcs12.PKCS12Certificate(one, f"authority-{number}".encode())
        for number, one in enumerate(x509.load_pem_x509_certificates(trusted))
    ]
    write_private(folder / TRUST_STORE, pkcs12.serialize_java_truststore(authorities, encryption))

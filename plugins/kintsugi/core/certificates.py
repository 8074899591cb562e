"""The installation's own certificate authority, and the certificates that it signs.

1. A certificate names one principal. Kafka reads it as the common name. A server's principal is its role, and its
   certificate names its address too.
2. One PEM file holds a private key and its certificate, as Kafka, Cassandra and OpenSSL read it. Its mode is 0600.
3. The authority is made once, before the first node (`create_authority`). Whether it exists decides whether servers and
   clients use TLS: an edit of the fleet file can't part them from each other.
4. A certificate is made when it is first needed. It begins in the past, because the clocks of nodes may differ.
5. An authority is replaced without a stop: the next one is trusted everywhere before it signs
   (`publish_next_authority`, `promote_next_authority`).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.core.files import write_private, write_private_once
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import Settings

if TYPE_CHECKING:
    from cryptography.x509 import ExtensionType, GeneralName

LIFETIME = timedelta(days=3650)
_EARLIER = timedelta(days=2)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)
_AUTHORITY, _NEXT_AUTHORITY = "authority.pem", "authority-next.pem"
# The authority of the certificates in use, the one that signs now, and the next.
_TRUSTED_AUTHORITIES = 3


class Principal(StrEnum):
    """Who a certificate speaks for. The authorisations of each are in `kintsugi.pipeline.authorization`."""

    KAFKA = "kafka"
    CASSANDRA = "cassandra"
    COLLECTOR = "collector"
    INGEST = "ingest"
    STREAM = "stream"
    PAGE = "page"
    PROBE = "probe"
    RECOVERY = "recovery"


_OF_ROLE = {
    Role.KAFKA: Principal.KAFKA,
    Role.CASSANDRA: Principal.CASSANDRA,
    Role.SPARK_MASTER: Principal.STREAM,
    Role.SPARK_WORKER: Principal.STREAM,
}


@dataclass(frozen=True, slots=True)
class _Subject:
    """Whom a certificate names. ``addresses``: where it serves; a client has none."""

    name: str
    principal: Principal
    addresses: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return f"{self.name}.pem"

    @classmethod
    def of_client(cls, principal: Principal) -> _Subject:
        return cls(principal.value, principal)

    @classmethod
    def of_collector(cls, settings: Settings) -> _Subject:
        address = settings.fleet.control_plane.address
        return cls(Principal.COLLECTOR.value, Principal.COLLECTOR, (address,))

    @classmethod
    def of_node(cls, node: Node) -> _Subject:
        return cls(f"{node.name}-{node.address}", principal_of(node), (node.address,))


def identity_of(principal: Principal) -> str:
    """Return ``principal`` as a URI of SPIFFE. Cassandra's nodes know each other by it."""
    return f"spiffe://kintsugi/{principal}"


def has_authority(settings: Settings) -> bool:
    """Whether Kafka and Cassandra of this installation ask for certificates."""
    return _authority_file(settings).exists()


def create_authority(settings: Settings) -> None:
    """Make the authority of an installation that has no node yet; an existing one stays."""
    if not has_authority(settings):
        _write_once(settings, _AUTHORITY, _new_authority(settings))


def publish_next_authority(settings: Settings) -> None:
    """Make the authority that signs next, and trust it from now on; an existing one stays.

    Certificates of the authority before the present one are trusted until then. They must have been replaced.
    """
    path = settings.tls / _NEXT_AUTHORITY
    if not path.exists():
        _write_once(settings, path.name, _new_authority(settings))
    (following,) = _CERTIFICATE.findall(path.read_text())
    trusted = _CERTIFICATE.findall(trust_file(settings).read_text())
    if following not in trusted:
        write_private(trust_file(settings), "".join([*trusted, following][-_TRUSTED_AUTHORITIES:]))


def is_authority_published(settings: Settings) -> bool:
    """Whether an authority waits until everybody trusts it."""
    return (settings.tls / _NEXT_AUTHORITY).exists()


def promote_next_authority(settings: Settings) -> bool:
    """Let the published authority sign from now on; the caller knows that everybody trusts it.

    Returns False if none is published.
    """
    try:
        (settings.tls / _NEXT_AUTHORITY).replace(_authority_file(settings))
    except FileNotFoundError:
        return False
    return True


def remove_authority(settings: Settings) -> None:
    """Remove the authority and all that it signed; the caller knows that no node uses it."""
    shutil.rmtree(settings.tls, ignore_errors=True)


def trust_file(settings: Settings) -> Path:
    """Return the file with the certificates of the trusted authorities, which prove all others; made at first use."""
    path = settings.tls / "trust.pem"
    if path.exists():
        return path
    (certificate,) = _CERTIFICATE.findall(_authority_file(settings).read_text())
    return _write_once(settings, path.name, certificate)


def client_certificate(settings: Settings, principal: Principal) -> Path:
    """Return the file with the key and certificate of ``principal``; made at first use."""
    return _certificate(settings, _Subject.of_client(principal))


@dataclass(frozen=True, slots=True)
class Login:
    """A role of Cassandra that may log in for ``principal``, and its password. Both are replaced by a rotation."""

    principal: Principal
    role: str
    password: str

    @classmethod
    def new(cls, principal: Principal) -> Login:
        """Return a login that nobody has yet: a random number in its name, a password of 32 random bytes in hex."""
        return cls(principal, f"{principal}_{secrets.token_hex(4)}", secrets.token_hex(32))

    @classmethod
    def read(cls, path: Path, principal: Principal) -> Login:
        """Return the login in the file ``path``."""
        role, password = path.read_text().split()
        return cls(principal, role, password)

    def __str__(self) -> str:
        return f"{self.role} {self.password}\n"


def login_file(settings: Settings, principal: Principal) -> Path:
    """Return the file with the login of ``principal`` in Cassandra; made at first use."""
    path = settings.tls / f"{principal}.login"
    return path if path.exists() else _write_once(settings, path.name, str(Login.new(principal)))


def replace_login(settings: Settings, login: Login) -> None:
    """Let every client that connects from now on use ``login``."""
    write_private(login_file(settings, login.principal), str(login))


def renew_certificates(settings: Settings) -> int:
    """Sign every certificate again, with a new key; returns their number. The old ones stay valid until they end.

    A client reads its new one at its next connection. A server gets its own by its role.
    """
    clients = [
        _Subject.of_client(principal) for principal in Principal if principal is not Principal.COLLECTOR
    ]
    servers = [_Subject.of_collector(settings), *map(_Subject.of_node, settings.fleet)]
    renewed = [subject for subject in (*clients, *servers) if (settings.tls / subject.file).exists()]
    for subject in renewed:
        write_private(settings.tls / subject.file, _signed(settings, subject))
    return len(renewed)


def node_certificate(settings: Settings, node: Node) -> Path:
    """Return the file with the key and certificate of ``node``, for its address; made at first use.

    A node whose address changes gets another certificate.
    """
    return _certificate(settings, _Subject.of_node(node))


def collector_certificate(settings: Settings) -> Path:
    """Return the file with the key and certificate of the log collector, for its address; made at first use.

    The certificate of the authority is beside it.
    """
    trust_file(settings)
    return _certificate(settings, _Subject.of_collector(settings))


def principal_of(node: Node) -> Principal:
    """Return whom the certificate of ``node`` speaks for."""
    return _OF_ROLE[node.role]


def node_files(settings: Settings, node: Node) -> dict[str, str]:
    """Return what ``node`` has in its directory of certificates, as text by file name.

    Its own certificate, under the name of its principal; the probe's, because a node is asked to probe itself and its
    neighbours; and the authority's. A node of Spark gets the login of ``stream`` in Cassandra too.
    """
    principal = principal_of(node)
    paths = {
        "trust.pem": trust_file(settings),
        f"{principal}.pem": node_certificate(settings, node),
        f"{Principal.PROBE}.pem": client_certificate(settings, Principal.PROBE),
    }
    if principal is Principal.STREAM:
        paths[f"{principal}.login"] = login_file(settings, principal)
    return {name: path.read_text() for name, path in paths.items()}


def _certificate(settings: Settings, subject: _Subject) -> Path:
    path = settings.tls / subject.file
    return path if path.exists() else _write_once(settings, path.name, _signed(settings, subject))


def _signed(settings: Settings, subject: _Subject) -> str:
    """A new key and certificate. A server's can be used as a client too, because servers connect to each other."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

    names: list[GeneralName] = [x509.UniformResourceIdentifier(identity_of(subject.principal))]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in subject.addresses]
    usages = [Usage.CLIENT_AUTH, *([Usage.SERVER_AUTH] if subject.addresses else [])]
    extensions: list[tuple[ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.SubjectAlternativeName(names), False),
        (x509.ExtendedKeyUsage(usages), False),
    ]
    return _sign(subject.principal.value, extensions, _authority_file(settings).read_bytes())


def _authority_file(settings: Settings) -> Path:
    """The key and certificate of the authority. They never leave the control plane."""
    return settings.tls / _AUTHORITY


def _new_authority(settings: Settings) -> str:
    """A new key and its certificate. Each authority has its own name, so that nobody takes one for another."""
    from cryptography import x509

    name = f"{settings.fleet.name} certificate authority {secrets.token_hex(4)}"
    extensions: list[tuple[ExtensionType, bool]] = [(x509.BasicConstraints(ca=True, path_length=0), True)]
    return _sign(name, extensions, None)


def _sign(name: str, extensions: Sequence[tuple[ExtensionType, bool]], authority: bytes | None) -> str:
    """Return a new key and its certificate in PEM form, signed by ``authority`` (PEM); None: signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = key
    if authority is not None:
        issuer = x509.load_pem_x509_certificate(authority).subject
        loaded = load_pem_private_key(authority, None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer = loaded
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (private + builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)).decode()


def _write_once(settings: Settings, name: str, text: str) -> Path:
    """Write a file of ``settings.tls``, unless another process wrote it first: all must use the same one."""
    settings.make_state()
    for directory in (settings.secrets, settings.tls):
        directory.mkdir(mode=0o700, exist_ok=True)
    write_private_once(settings.tls / name, text)
    return settings.tls / name

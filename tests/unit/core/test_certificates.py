"""The authority of an installation, and the certificates that it signs."""

from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kintsugi.core import certificates
from kintsugi.core.certificates import Principal
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = installation(tmp_path, "127.31")
    certificates.create_authority(made)
    return made


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_certificate_names_its_principal_and_the_address_of_its_server(settings: Settings) -> None:
    node = settings.fleet.of(Role.CASSANDRA)[0]
    certificate = load(certificates.node_certificate(settings, node))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "cassandra"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://kintsugi/cassandra"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [node.address]


def test_a_clients_certificate_can_serve_nobody(settings: Settings) -> None:
    certificate = load(certificates.client_certificate(settings, Principal.PAGE))
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_renewed_certificate_has_a_new_key_and_names_the_same(settings: Settings) -> None:
    node = settings.fleet.of(Role.KAFKA)[0]
    paths = [
        certificates.node_certificate(settings, node),
        certificates.collector_certificate(settings),
        certificates.client_certificate(settings, Principal.PROBE),
    ]
    before = [load(path) for path in paths]
    assert certificates.renew_certificates(settings) == len(paths)
    for path, old in zip(paths, before, strict=True):
        new = load(path)
        assert new.public_key() != old.public_key()
        assert new.subject == old.subject
        for kind in (x509.SubjectAlternativeName, x509.ExtendedKeyUsage):
            assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(
                kind
            )


def test_an_authority_is_trusted_before_it_signs_and_as_long_as_its_certificates_are_used(
    settings: Settings,
) -> None:
    """Nodes are updated one after another: each must accept the others, before and after its update."""
    probe = certificates.client_certificate(settings, Principal.PROBE)
    before = (certificates.trust_file(settings).read_bytes(), load(probe))
    for _ in range(4):
        certificates.publish_next_authority(settings)
        certificates.renew_certificates(settings)
        after = (certificates.trust_file(settings).read_bytes(), load(probe))
        for trust, _certificate in (before, after):
            for certificate in (before[1], after[1]):
                assert is_signed_by_one_of(certificate, trust)
        assert certificates.promote_next_authority(settings)
        before = after


def test_the_third_rotation_ends_the_trust_in_an_authority(settings: Settings) -> None:
    stolen = load(certificates.client_certificate(settings, Principal.RECOVERY))
    trusted = []
    for _ in range(3):
        certificates.publish_next_authority(settings)
        trusted.append(is_signed_by_one_of(stolen, certificates.trust_file(settings).read_bytes()))
        certificates.renew_certificates(settings)
        certificates.promote_next_authority(settings)
    assert trusted == [True, True, False]


def test_a_rotation_of_the_authority_can_be_killed_and_repeated(settings: Settings) -> None:
    certificates.publish_next_authority(settings)
    trust = certificates.trust_file(settings).read_bytes()
    certificates.publish_next_authority(settings)
    assert certificates.trust_file(settings).read_bytes() == trust
    authority = (settings.tls / "authority.pem").read_bytes()
    assert certificates.promote_next_authority(settings)
    promoted = (settings.tls / "authority.pem").read_bytes()
    assert promoted != authority
    assert not certificates.promote_next_authority(settings), (
        "an unpublished authority would lock everybody out"
    )
    assert (settings.tls / "authority.pem").read_bytes() == promoted


def is_signed_by_one_of(certificate: x509.Certificate, trust: bytes) -> bool:
    return any(_verifies(certificate, issuer) for issuer in x509.load_pem_x509_certificates(trust))


def _verifies(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, InvalidSignature):
        return False
    return True


def test_every_file_is_private_and_the_authoritys_key_is_in_one_only(settings: Settings) -> None:
    for node in settings.fleet:
        certificates.node_files(settings, node)
    files = list(settings.tls.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(settings.tls.stat().st_mode) == 0o700
    key = (settings.tls / "authority.pem").read_text().partition("-----BEGIN CERTIFICATE-----")[0]
    assert "PRIVATE KEY" in key
    assert [path.name for path in files if key in path.read_text()] == ["authority.pem"]
    assert "PRIVATE KEY" not in (settings.tls / "trust.pem").read_text()


def test_a_node_gets_the_login_of_no_role_but_its_own(settings: Settings) -> None:
    given = {node.role: set(certificates.node_files(settings, node)) for node in settings.fleet}
    assert given == {
        Role.KAFKA: {"trust.pem", "kafka.pem", "probe.pem"},
        Role.CASSANDRA: {"trust.pem", "cassandra.pem", "probe.pem"},
        Role.SPARK_MASTER: {"trust.pem", "stream.pem", "stream.login", "probe.pem"},
        Role.SPARK_WORKER: {"trust.pem", "stream.pem", "stream.login", "probe.pem"},
    }


def test_processes_that_begin_at_once_use_one_authority(settings: Settings) -> None:
    code = (
        "from kintsugi.core.certificates import *; from kintsugi.core.settings import load_settings; "
        "settings = load_settings(); create_authority(settings); "
        "client_certificate(settings, Principal.PROBE); trust_file(settings)"
    )
    shutil.rmtree(settings.tls)
    environment = {"KINTSUGI_STATE": str(settings.state), "KINTSUGI_FLEET": str(settings.fleet_file)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": str(settings.repository / "plugins"), **environment},
        )
        for _ in range(4)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
    context = ssl.create_default_context(cafile=str(settings.tls / "trust.pem"))
    context.load_cert_chain(settings.tls / "probe.pem")
    issuer = load(settings.tls / "trust.pem")
    load(settings.tls / "probe.pem").verify_directly_issued_by(issuer)
    assert not list(settings.tls.glob(".*"))

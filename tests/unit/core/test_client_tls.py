"""What a client shows, and whom it accepts: TLS handshakes with a server that uses a node's certificate."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from kintsugi.core import certificates, client_tls
from kintsugi.core.certificates import Login, Principal
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import Settings
from tests.installations import installation

ADDRESS = "127.31.2.1"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = installation(tmp_path, "127.31")
    certificates.create_authority(made)
    monkeypatch.setenv("KINTSUGI_STATE", str(made.state))
    monkeypatch.setenv("KINTSUGI_FLEET", str(made.fleet_file))
    monkeypatch.delenv(client_tls.TLS_DIRECTORY, raising=False)
    return made


@contextmanager
def server(settings: Settings, node: Node) -> Iterator[tuple[int, list[str]]]:
    """A TLS server on ADDRESS with the certificate of ``node``; gives its port and whom it let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.node_certificate(settings, node))
    context.load_verify_locations(certificates.trust_file(settings))
    context.verify_mode = ssl.CERT_REQUIRED
    seen: list[str] = []
    listener = socket.create_server((ADDRESS, 0))

    def serve() -> None:
        connection, _ = listener.accept()
        try:
            with connection, context.wrap_socket(connection, server_side=True) as secure:
                shown = secure.getpeercert(binary_form=True)
                assert shown is not None
                (name,) = x509.load_der_x509_certificate(shown).subject
                seen.append(str(name.value))
                secure.sendall(b"x")
        except OSError:
            return  # the handshake failed

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        thread.join(10)
        listener.close()


def say_hello(port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection((ADDRESS, port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=ADDRESS) as secure,
    ):
        return secure.recv(1)


def node_at(settings: Settings, address: str) -> Node:
    return dataclasses.replace(settings.fleet.of(Role.CASSANDRA)[0], address=address)


def context_of(principal: Principal) -> ssl.SSLContext:
    context = client_tls.client_context(principal)
    assert context is not None
    return context


def test_a_server_learns_the_principal_of_its_client(settings: Settings) -> None:
    with server(settings, node_at(settings, ADDRESS)) as (port, seen):
        assert say_hello(port, context_of(Principal.INGEST)) == b"x"
    assert seen == ["ingest"]


def test_a_server_of_another_address_is_refused(settings: Settings) -> None:
    with (
        server(settings, node_at(settings, "127.31.2.2")) as (port, seen),
        pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"),
    ):
        say_hello(port, context_of(Principal.INGEST))
    assert seen == []


def test_a_client_of_another_authority_is_refused(settings: Settings, tmp_path: Path) -> None:
    other = installation(tmp_path / "other", "127.31")
    certificates.create_authority(other)
    stranger = ssl.create_default_context(cafile=str(certificates.trust_file(settings)))
    stranger.load_cert_chain(certificates.client_certificate(other, Principal.RECOVERY))
    with server(settings, node_at(settings, ADDRESS)) as (port, seen), pytest.raises(OSError):
        say_hello(port, stranger)
    assert seen == []


def test_a_renewed_certificate_is_used_without_a_restart(settings: Settings) -> None:
    before = context_of(Principal.INGEST)
    assert context_of(Principal.INGEST) is before
    certificates.client_certificate(settings, Principal.INGEST).unlink()
    certificates.client_certificate(settings, Principal.INGEST)
    assert context_of(Principal.INGEST) is not before


def test_a_node_acts_only_as_the_principals_whose_files_it_has(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "node"
    directory.mkdir()
    for name, text in certificates.node_files(settings, settings.fleet.of(Role.SPARK_WORKER)[0]).items():
        (directory / name).write_text(text)
    monkeypatch.setenv(client_tls.TLS_DIRECTORY, str(directory))
    role, password = (settings.tls / "stream.login").read_text().split()
    assert role.startswith("stream_")
    assert client_tls.cassandra_login(Principal.STREAM) == Login(Principal.STREAM, role, password)
    assert client_tls.kafka_options(Principal.STREAM)["security_protocol"] == "SSL"
    with pytest.raises(KintsugiError, match=r"recovery\.pem is missing"):
        client_tls.kafka_options(Principal.RECOVERY)
    (directory / "stream.login").unlink()
    with pytest.raises(KintsugiError, match=r"stream\.login is missing"):
        client_tls.cassandra_login(Principal.STREAM)


def test_spark_finds_the_files_of_the_node_that_it_runs_on(settings: Settings) -> None:
    options = client_tls.spark_kafka_options(Principal.STREAM)
    assert options["kafka.ssl.keystore.location"] == "${env:KINTSUGI_TLS_DIRECTORY}/stream.pem"
    assert not [value for value in options.values() if "PRIVATE" in value]


@pytest.mark.parametrize("switch", ["empty", "no authority"])
def test_without_tls_nothing_is_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    if switch == "empty":
        monkeypatch.setenv(client_tls.TLS_DIRECTORY, "")
    else:
        shutil.rmtree(settings.tls)
    assert client_tls.client_context(Principal.PROBE) is None
    assert client_tls.kafka_options(Principal.PROBE) == {}
    assert client_tls.cassandra_options(Principal.PROBE) == {}
    assert client_tls.spark_kafka_options(Principal.STREAM) == {}

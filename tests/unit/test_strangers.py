"""The attack on Kafka's and Cassandra's ports notices a door that is open."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kintsugi.core import certificates
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from tests import strangers
from tests.installations import installation

ADDRESS = "127.31.2.1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = installation(tmp_path, "127.31")
    certificates.create_authority(made)
    return made


@contextmanager
def server(context: ssl.SSLContext | None) -> Iterator[strangers.OpenPort]:
    """A server that answers whatever it is asked, once it has accepted the client."""
    listener = socket.create_server((ADDRESS, 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), connection:
                    client = (
                        connection if context is None else context.wrap_socket(connection, server_side=True)
                    )
                    client.recv(1)
                    client.sendall(b"welcome")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield strangers.OpenPort("cassandra-1", *listener.getsockname())
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def context_of(settings: Settings, wanted: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.node_certificate(settings, settings.fleet.of(Role.CASSANDRA)[0]))
    context.load_verify_locations(certificates.trust_file(settings))
    context.verify_mode = wanted
    return context


def test_a_port_without_tls_is_open(settings: Settings, tmp_path: Path) -> None:
    with server(None) as port, pytest.raises(AssertionError, match="answered b'w'"):
        strangers.knock_without_certificate(settings)(port, tmp_path)


def test_a_port_that_asks_for_no_certificate_is_open(settings: Settings, tmp_path: Path) -> None:
    with (
        server(context_of(settings, ssl.CERT_NONE)) as port,
        pytest.raises(AssertionError, match="answered b'w'"),
    ):
        strangers.knock_without_certificate(settings)(port, tmp_path)


def test_a_port_that_asks_for_a_certificate_is_closed(settings: Settings, tmp_path: Path) -> None:
    with server(context_of(settings, ssl.CERT_REQUIRED)) as port:
        strangers.knock_without_certificate(settings)(port, tmp_path)

"""Apprise reaches a real SMTP server and a real webhook receiver."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from kintsugi.core.errors import KintsugiError
from kintsugi.notify.channels import CONNECTION, Channel, load_channels
from tests.receivers import ADDRESS, http_receiver


class Mailbox:
    """Keeps what an SMTP server receives."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.recipients: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append(message_from_bytes(envelope.content))
        self.recipients += envelope.rcpt_tos
        return "250 OK"


@pytest.fixture
def smtp() -> Iterator[tuple[Mailbox, int]]:
    import socket

    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port = probe.getsockname()[1]
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname=ADDRESS, port=port)
    controller.start()
    yield mailbox, port
    controller.stop()


def test_a_mail_arrives_with_title_and_text(smtp: tuple[Mailbox, int]) -> None:
    mailbox, port = smtp
    url = f"mailto://{ADDRESS}:{port}/?from=kintsugi@example.org&to=oncall@example.org&mode=insecure"
    Channel(url).send("kafka-2 needs a person", "2 of 3 are sick\nSee `kintsugi incident x`")
    (mail,) = mailbox.mails
    assert mailbox.recipients == ["oncall@example.org"]
    assert mail["Subject"] == "kafka-2 needs a person"
    parts = [part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()]
    assert any(b"2 of 3 are sick" in part for part in parts if isinstance(part, bytes))


def test_a_webhook_arrives() -> None:
    with http_receiver() as receiver:
        Channel(receiver.url.replace("http://", "json://") + "/hook").send("title", "text")
    (request,) = receiver.requests
    assert request.path.rstrip("/") == "/hook"
    assert (request.json["title"], request.json["message"]) == ("title", "text")


@pytest.mark.parametrize("status", [403, 500])
def test_a_receiver_that_refuses_is_an_error_without_the_url(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with http_receiver() as receiver:
        receiver.answer = lambda request: (status, b"no")
        url = receiver.url.replace("http://", "json://user:t0psecret@")
        with pytest.raises(KintsugiError, match=Channel(url).name) as refused:
            Channel(url).send("title", "text")
    assert "t0psecret" not in str(refused.value) + caplog.text + repr(Channel(url))


def test_a_receiver_that_is_gone_is_an_error() -> None:
    with http_receiver() as receiver:
        url = receiver.url.replace("http://", "json://")
    with pytest.raises(KintsugiError, match=Channel(url).name):
        Channel(url).send("title", "text")


def test_a_url_that_apprise_does_not_know_is_an_error_without_the_url() -> None:
    channel = Channel("carrierpigeon://t0psecret@coop")
    with pytest.raises(KintsugiError, match=f"{channel.name}.*{CONNECTION}") as refused:
        channel.send("title", "text")
    assert "t0psecret" not in str(refused.value)


def _define(monkeypatch: pytest.MonkeyPatch, config: object) -> None:
    defined = {"conn_type": "apprise", "extra": {"config": config}}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_APPRISE", json.dumps(defined))


def test_channels_come_from_the_connection_with_their_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_channels() == []
    _define(monkeypatch, [{"path": "json://a", "tag": "page"}, {"path": "json://b"}, "json://c"])
    found = load_channels()
    assert [channel.takes("page") for channel in found] == [True, True, True]
    assert [channel.takes("digest") for channel in found] == [False, True, True]
    assert len({channel.name for channel in found}) == 3


def test_one_channel_may_stand_alone_as_airflows_provider_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _define(monkeypatch, {"path": "json://a", "tag": "digest, page"})
    (found,) = load_channels()
    assert found.takes("page")
    assert found.takes("digest")


@pytest.mark.parametrize("config", [[{"tag": "page"}], ["nothing"], [7]])
def test_an_entry_without_a_url_is_named_by_its_place(
    config: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    _define(monkeypatch, config)
    with pytest.raises(KintsugiError, match=r"entry 1 of extra\.config"):
        load_channels()

"""A command on a node: what it sends is bounded, and odd bytes of it are no error."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import Settings
from kintsugi.infra import ssh
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation whose ssh runs a Python program here, in the place of a node."""
    monkeypatch.setattr(
        ssh, "ssh_command", lambda _settings, _node, argv, _key: [sys.executable, "-c", *argv]
    )
    return installation(tmp_path, "127.39")


def run(settings: Settings, program: str, timeout: float = 20) -> tuple[int, str, str]:
    done = ssh.run_over_ssh(settings, settings.fleet.node("kafka-1"), [program], timeout)
    return done.returncode, done.stdout, done.stderr


def test_what_a_command_gave_is_told(settings: Settings) -> None:
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert run(settings, program) == (3, "out\n", "err\n")


@pytest.mark.parametrize("stream", [1, 2])
def test_a_node_that_never_stops_sending_is_cut_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stream: int
) -> None:
    monkeypatch.setattr(ssh, "OUTPUT_BYTES", 1 << 20)
    began = time.monotonic()
    with pytest.raises(StepFailed, match="more than 1 MiB"):
        run(settings, f"import os\nwhile True: os.write({stream}, b'x' * 65536)", timeout=60)
    assert time.monotonic() - began < 30


def test_bytes_that_are_no_text_are_no_error(settings: Settings) -> None:
    assert run(settings, "import os; os.write(1, bytes([255, 10]))")[1] == "\ufffd\n"


def test_a_node_that_says_nothing_is_given_up(settings: Settings) -> None:
    with pytest.raises(StepFailed, match="no answer"):
        run(settings, "import time; time.sleep(60)", timeout=0.5)

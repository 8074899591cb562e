from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from kintsugi.errors import KintsugiError
from kintsugi.local.up import PARTS, _only_one, down
from kintsugi.settings import Settings
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.34")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_down_with_nothing_there_does_nothing(settings: Settings, console: Console) -> None:
    down(settings, console)
    assert not settings.state.exists()


def test_down_clears_what_a_crash_left_on_disk(settings: Settings, console: Console) -> None:
    for part in PARTS:
        (settings.state / part).mkdir(parents=True)
    (settings.state / "lock").rmdir()
    (settings.state / "nodes/kafka-1/log").mkdir(parents=True)
    (settings.control / "supervisord.pid").write_text("1\n")
    (settings.control / "postgres").mkdir()
    (settings.control / "postgres/postmaster.pid").write_text("1\n/elsewhere\n")
    down(settings, console)
    assert not settings.state.exists()


def test_down_never_deletes_what_is_not_kintsugis(settings: Settings, console: Console) -> None:
    (settings.state / "control").mkdir(parents=True)
    (settings.state / "thesis.tex").write_text("years of work")
    down(settings, console)
    assert [path.name for path in settings.state.iterdir()] == ["thesis.tex"]


def test_two_at_once_are_refused_with_the_pid_of_the_first(settings: Settings, console: Console) -> None:
    with _only_one(settings), pytest.raises(KintsugiError, match=r"another `kintsugi up` or `down`.*pid \d+"):
        down(settings, console)
    down(settings, console)

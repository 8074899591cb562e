"""The one way of the control plane into a node's directories: what it refuses, and what it bounds."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kintsugi.environments import node_files
from kintsugi.environments.node_files import NodeFileRefused

PRODUCT = Path(__file__).parents[3]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("secret")
    (tmp_path / "node/log").mkdir(parents=True)
    return tmp_path / "node"


def put_link(path: Path) -> None:
    path.symlink_to("../../outside/file")


def put_dangling_link(path: Path) -> None:
    path.symlink_to("../../outside/new")


def put_hard_link(path: Path) -> None:
    path.hardlink_to(path.parents[2] / "outside/file")


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)
        server.bind(path.name)


PUT = [put_link, put_dangling_link, put_hard_link, os.mkfifo, Path.mkdir, put_socket]


@pytest.mark.parametrize("put", PUT)
def test_only_a_regular_file_with_one_name_is_read_or_appended_to(
    top: Path, put: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(top)
    put(top / "log/init.log")
    for use in (
        lambda: node_files.read_tail(top, "log/init.log"),
        lambda: node_files.file_size(top, "log/init.log"),
        lambda: os.close(node_files.open_to_append(top, "log/init.log")),
    ):
        with pytest.raises(NodeFileRefused):
            use()
    assert (top.parent / "outside/file").read_text() == "secret"
    assert not (top.parent / "outside/new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_never_opened(top: Path) -> None:
    try:
        os.mknod(top / "log/init.log", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this root may not make devices")
    with pytest.raises(NodeFileRefused):
        node_files.read_tail(top, "log/init.log")


@pytest.mark.parametrize("put", [put for put in PUT if put is not Path.mkdir])
def test_a_written_file_takes_the_place_of_whatever_was_there(
    top: Path, put: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(top)
    put(top / "log/init.log")
    node_files.write_file(top, "log/init.log", "ours", 0o600)
    assert (top / "log/init.log").read_text() == "ours"
    assert (top / "log/init.log").stat().st_mode & 0o777 == 0o600
    assert not (top / "log/init.log").is_symlink()
    assert (top.parent / "outside/file").read_text() == "secret"
    assert [path.name for path in (top / "log").iterdir()] == ["init.log"]


def test_a_directory_in_the_place_of_a_file_is_refused(top: Path) -> None:
    (top / "log/init.log").mkdir()
    with pytest.raises(NodeFileRefused):
        node_files.write_file(top, "log/init.log", "ours")
    assert [path.name for path in (top / "log").iterdir()] == ["init.log"]


def test_a_link_in_the_middle_of_a_path_is_never_passed(top: Path) -> None:
    (top / "way").symlink_to("../outside")
    for use in (
        lambda: node_files.read_tail(top, "way/file"),
        lambda: node_files.file_size(top, "way/file"),
        lambda: node_files.write_file(top, "way/file", "ours"),
        lambda: os.close(node_files.open_to_append(top, "way/file")),
        lambda: node_files.remove_file(top, "way/file"),
        lambda: node_files.is_there(top, "way/file"),
        lambda: node_files.names_in(top, "way"),
        lambda: node_files.holds_name(top, "way", "file", 3),
        lambda: node_files.make_directory(top, "way/new"),
        lambda: node_files.make_directory(top, "way", mode=0o777),
        lambda: node_files.accepts_connection(top, "way/file", 1),
    ):
        with pytest.raises(NodeFileRefused):
            use()
    assert [path.name for path in (top.parent / "outside").iterdir()] == ["file"]
    assert not node_files.holds_name(top, "", "file", 3)


@pytest.mark.parametrize("relative", ["../outside/file", "log/../../outside/file", "/etc/passwd"])
def test_no_path_leaves_its_directory(top: Path, relative: str) -> None:
    with pytest.raises(ValueError, match="below"):
        node_files.read_tail(top, relative)


def test_a_read_is_bounded_and_counts_from_where_it_was_told_to(top: Path) -> None:
    (top / "log/init.log").write_bytes(b"0123456789")
    assert node_files.read_tail(top, "log/init.log", 4) == b"6789"
    assert node_files.read_tail(top, "log/init.log", 40) == b"0123456789"
    assert node_files.read_from(top, "log/init.log", 3, 4) == b"3456"
    with (top / "log/init.log").open("wb") as endless:
        endless.truncate(1 << 40)
    assert len(node_files.read_tail(top, "log/init.log")) == node_files.READ_BYTES


def test_a_search_is_bounded(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "data/kafka").mkdir(parents=True)
    (top / "data/kafka/mark").touch()
    assert node_files.holds_name(top, "data", "mark", 2)
    assert not node_files.holds_name(top, "data", "mark", 1)
    monkeypatch.setattr(node_files, "MAX_ENTRIES", 3)
    for number in range(4):
        (top / f"data/{number}").touch()
    with pytest.raises(NodeFileRefused):
        node_files.holds_name(top, "data", "nowhere", 2)


def test_no_other_module_opens_a_path_in_a_nodes_directories() -> None:
    """A new place that reads, writes or asks the file system for a node's path has to go through the module."""
    touch = re.compile(
        r"node_(?:root|volume)\([^)]*\)[^\n]*\."
        r"(?:open|read_\w+|write_\w+|mkdir|unlink|touch|glob|rglob|iterdir|chmod|is_\w+|l?stat)\("
    )
    found = [
        f"{path.relative_to(PRODUCT)}: {line.strip()}"
        for part in ("plugins", "benchmarks")
        for path in sorted((PRODUCT / part).rglob("*.py"))
        for line in path.read_text().splitlines()
        if touch.search(line)
    ]
    assert found == []

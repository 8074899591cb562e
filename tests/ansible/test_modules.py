"""The modules of the collection kintsugi.node, each run as a program with JSON arguments."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kintsugi.fleet import REPOSITORY

MODULES = REPOSITORY / "ansible/collections/ansible_collections/kintsugi/node/plugins/modules"
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"


def run(module: str, tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    """Run a module; its answer, with ``failed`` in it when it failed."""
    given = tmp_path / "arguments.json"
    given.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    done = subprocess.run(
        [sys.executable, str(MODULES / f"{module}.py"), str(given)],
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def load(module: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"node_module_{module}", MODULES / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class TestFiles:
    def test_only_what_differs_is_written(self, tmp_path: Path) -> None:
        wanted = [
            {"path": str(tmp_path / "a"), "content": "1"},
            {"path": str(tmp_path / "b"), "content": "2", "mode": "0600"},
        ]
        first = run("files", tmp_path, files=wanted)
        assert first["written"] == [str(tmp_path / "a"), str(tmp_path / "b")]
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
        (tmp_path / "a").write_text("other")
        assert run("files", tmp_path, files=wanted)["written"] == [str(tmp_path / "a")]
        assert run("files", tmp_path, files=wanted)["changed"] is False

    def test_a_mode_that_differs_is_put_right(self, tmp_path: Path) -> None:
        wanted = [{"path": str(tmp_path / "a"), "content": "1", "mode": "0755"}]
        run("files", tmp_path, files=wanted)
        (tmp_path / "a").chmod(0o600)
        assert run("files", tmp_path, files=wanted)["changed"] is True
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755

    def test_once_leaves_what_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "begun-by"
        run("files", tmp_path, files=[{"path": str(path), "content": "replace", "once": True}])
        again = run("files", tmp_path, files=[{"path": str(path), "content": "form", "once": True}])
        assert again["changed"] is False
        assert path.read_text() == "replace"

    def test_check_mode_touches_nothing(self, tmp_path: Path) -> None:
        wanted = [{"path": str(tmp_path / "a"), "content": "1"}]
        answer = run(
            "files", tmp_path, files=wanted, directories=[str(tmp_path / "d")], _ansible_check_mode=True
        )
        assert answer["changed"] is True
        assert not (tmp_path / "a").exists()
        assert not (tmp_path / "d").exists()

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        answer = run("files", tmp_path, files=[{"path": str(tmp_path / "no" / "a"), "content": "1"}])
        assert answer["failed"] is True
        assert "no" in answer["msg"]


class TestKafkaStorage:
    """The formatting tool is stood in for by a script: what matters is what it is told, and how often."""

    @pytest.fixture
    def tool(self, tmp_path: Path) -> Path:
        script = tmp_path / "tool.py"
        script.write_text(
            "import pathlib, sys\n"
            f"log = pathlib.Path({str(tmp_path / 'calls')!r})\n"
            "log.open('a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            "text = pathlib.Path(sys.argv[sys.argv.index('-c') + 1]).read_text()\n"
            "where = [l for l in text.splitlines() if l.startswith('log.dirs=')][-1].partition('=')[2]\n"
            f"if pathlib.Path({str(tmp_path / 'fail')!r}).exists(): sys.exit('no space left')\n"
            "(pathlib.Path(where) / 'meta.properties').write_text('version=1\\ndirectory.id=abc\\n')\n"
        )
        (tmp_path / "server.properties").write_text("node.id=1\nlog.dirs=/wrong\n")
        return script

    def format(self, tmp_path: Path, tool: Path, **arguments: Any) -> dict[str, Any]:
        return run(
            "kafka_storage", tmp_path, directory=str(tmp_path / "data"), cluster_id=CLUSTER,
            properties=str(tmp_path / "server.properties"), java=[sys.executable, str(tool)], **arguments,
        )  # fmt: skip

    def test_a_first_voter_is_told_all_voters(self, tmp_path: Path, tool: Path) -> None:
        answer = self.format(tmp_path, tool, initial_controllers=["1@a:9093:x", "2@b:9093:y"])
        assert answer["directory_id"] == "abc"
        assert "--initial-controllers 1@a:9093:x,2@b:9093:y" in (tmp_path / "calls").read_text()

    def test_a_joining_disk_votes_for_nobody(self, tmp_path: Path, tool: Path) -> None:
        self.format(tmp_path, tool)
        assert "--no-initial-controllers" in (tmp_path / "calls").read_text()

    def test_a_formatted_disk_is_never_formatted_again(self, tmp_path: Path, tool: Path) -> None:
        self.format(tmp_path, tool)
        assert self.format(tmp_path, tool)["changed"] is False
        assert len((tmp_path / "calls").read_text().splitlines()) == 1

    def test_an_interrupted_format_is_done_over_from_the_start(self, tmp_path: Path, tool: Path) -> None:
        half = tmp_path / "data.fresh"
        half.mkdir()
        (half / "rest").write_text("of a killed format")
        assert self.format(tmp_path, tool)["changed"] is True
        assert not (tmp_path / "data" / "rest").exists()

    def test_a_failed_format_leaves_no_disk_that_looks_formatted(self, tmp_path: Path, tool: Path) -> None:
        (tmp_path / "fail").touch()
        answer = self.format(tmp_path, tool)
        assert "no space left" in answer["msg"]
        assert not (tmp_path / "data").exists()


class TestProgram:
    def parameters(self, tmp_path: Path, **changes: Any) -> dict[str, Any]:
        given = {
            "name": "kafka",
            "root": str(tmp_path),
            "command": ["java", "-Dx=50%", "a b"],
            "environment": {},
        }
        return {**given, "state": "started", "stop_seconds": 30, **changes}

    def test_the_definition_keeps_words_and_percent_signs(self, tmp_path: Path) -> None:
        text = load("program").definition(self.parameters(tmp_path, environment={"A": "1%"}))
        assert "command = java -Dx=50%% 'a b'\n" in text
        assert 'environment = A="1%%"\n' in text
        assert "autostart = true\n" in text

    def test_what_is_only_present_stays_down_at_the_next_boot(self, tmp_path: Path) -> None:
        text = load("program").definition(self.parameters(tmp_path, state="present"))
        assert "autostart = false\n" in text

    def test_an_init_that_is_gone_is_told_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "etc" / "supervisor.d").mkdir(parents=True)
        answer = run("program", tmp_path, name="kafka", root=str(tmp_path), command=["true"])
        assert answer["failed"] is True
        assert "init of" in answer["msg"]

    @pytest.fixture
    def init(self, tmp_path: Path) -> Iterator[Path]:
        """A real supervisord with nothing to do; yields its root."""
        for directory in ("run", "log", "etc/supervisor.d"):
            (tmp_path / directory).mkdir(parents=True)
        configuration = tmp_path / "etc" / "supervisord.conf"
        configuration.write_text(
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={tmp_path}/run/pid\n"
            f"[unix_http_server]\nfile={tmp_path}/run/supervisor.sock\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[include]\nfiles = {tmp_path}/etc/supervisor.d/*.conf\n"
        )
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while not (tmp_path / "run" / "supervisor.sock").exists():
                assert time.monotonic() < deadline, "supervisord did not start"
                time.sleep(0.05)
            yield tmp_path
        finally:
            process.terminate()
            process.wait(30)

    def test_a_program_that_ends_again_and_again_is_not_waited_for(self, init: Path) -> None:
        began = time.monotonic()
        answer = run(
            "program",
            init,
            name="loop",
            root=str(init),
            command=["sh", "-c", "echo wrong value; exit 3"],
            host="127.0.0.1",
            port=1,
            timeout=120,
        )
        assert answer["failed"]
        assert answer["msg"].startswith("loop ended 3 times instead of listening at 127.0.0.1:1")
        assert "wrong value" in answer["tail"]
        assert time.monotonic() - began < 60

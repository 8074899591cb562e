"""The module kintsugi.node.service, run as a program with JSON arguments."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.fleet import REPOSITORY

COLLECTIONS = REPOSITORY / "ansible/collections"
MODULE = COLLECTIONS / "ansible_collections/kintsugi/node/plugins/modules/service.py"
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"


def run(tmp_path: Path, **arguments: Any) -> dict[str, Any]:
    """Run the module; its answer, with ``failed`` in it when it failed."""
    given = tmp_path / "arguments.json"
    given.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    done = subprocess.run(
        [sys.executable, str(MODULE), str(given)],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class TestPreconditions:
    @pytest.fixture
    def met(self, tmp_path: Path) -> dict[str, Any]:
        """Preconditions that are all met."""
        for directory in ("volume/data", "artifacts", "java/bin"):
            (tmp_path / directory).mkdir(parents=True)
        (tmp_path / "java/bin/java").touch(0o755)
        (tmp_path / "java/release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="17.0.13"\n')
        return {
            "volume": str(tmp_path / "volume"),
            "artifacts": str(tmp_path / "artifacts"),
            "free_mib": 1,
            "java_home": str(tmp_path / "java"),
            "java_version": 17,
        }

    def test_nothing_is_written_where_a_precondition_is_not_met(
        self, tmp_path: Path, met: dict[str, Any]
    ) -> None:
        files = [{"path": str(tmp_path / "a"), "content": "1"}]
        short = run(tmp_path, preconditions=met | {"free_mib": 10**9}, files=files)
        assert short["failed"] is True
        assert short["msg"].endswith("MiB free, 1000000000 are needed")
        assert short["written"] == []
        assert not (tmp_path / "a").exists()
        assert run(tmp_path, preconditions=met, files=files)["written"] == [str(tmp_path / "a")]

    @pytest.mark.parametrize(
        ("release", "said"),
        [
            ('JAVA_VERSION="21.0.2"', "is Java 21.0.2, 17 is needed"),
            ('JAVA_VERSION="1.8.0_402"', "is Java 1.8.0_402, 17 is needed"),
            ("", "is Java of no version that its release file tells, 17 is needed"),
        ],
    )
    def test_another_java_is_named(
        self, tmp_path: Path, met: dict[str, Any], release: str, said: str
    ) -> None:
        (tmp_path / "java/release").write_text(release)
        assert run(tmp_path, preconditions=met)["msg"] == f"{tmp_path / 'java'} {said}"

    def test_a_directory_without_a_java_is_named(self, tmp_path: Path, met: dict[str, Any]) -> None:
        (tmp_path / "java/bin/java").chmod(0o644)
        said = run(tmp_path, preconditions=met)["msg"]
        assert said == f"there is no Java in {tmp_path / 'java'}; install a runtime of version 17"


class TestFiles:
    def test_only_what_differs_is_written(self, tmp_path: Path) -> None:
        wanted = [
            {"path": str(tmp_path / "a"), "content": "1"},
            {"path": str(tmp_path / "b"), "content": "2", "mode": "0600"},
        ]
        first = run(tmp_path, files=wanted)
        assert first["written"] == [str(tmp_path / "a"), str(tmp_path / "b")]
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
        (tmp_path / "a").write_text("other")
        assert run(tmp_path, files=wanted)["written"] == [str(tmp_path / "a")]
        assert run(tmp_path, files=wanted)["changed"] is False

    def test_a_mode_that_differs_is_put_right(self, tmp_path: Path) -> None:
        wanted = [{"path": str(tmp_path / "a"), "content": "1", "mode": "0755"}]
        run(tmp_path, files=wanted)
        (tmp_path / "a").chmod(0o600)
        assert run(tmp_path, files=wanted)["changed"] is True
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755

    def test_once_leaves_what_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "begun-by"
        run(tmp_path, files=[{"path": str(path), "content": "replace", "once": True}])
        again = run(tmp_path, files=[{"path": str(path), "content": "form", "once": True}])
        assert again["changed"] is False
        assert path.read_text() == "replace"

    def test_check_mode_touches_nothing(self, tmp_path: Path) -> None:
        wanted = [{"path": str(tmp_path / "a"), "content": "1"}]
        answer = run(tmp_path, files=wanted, directories=[str(tmp_path / "d")], _ansible_check_mode=True)
        assert answer["changed"] is True
        assert not (tmp_path / "a").exists()
        assert not (tmp_path / "d").exists()

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        answer = run(tmp_path, files=[{"path": str(tmp_path / "no" / "a"), "content": "1"}])
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
        storage = {
            "directory": str(tmp_path / "data"),
            "cluster_id": CLUSTER,
            "properties": str(tmp_path / "server.properties"),
            "java": [sys.executable, str(tool)],
        }
        return run(tmp_path, kafka_storage=storage | arguments)

    def test_a_first_voter_is_told_all_voters(self, tmp_path: Path, tool: Path) -> None:
        answer = self.format(tmp_path, tool, initial_controllers=["1@a:9093:x", "2@b:9093:y"])
        assert answer["formatted"] is True
        assert "directory.id=abc" in (tmp_path / "data" / "meta.properties").read_text()
        assert "--initial-controllers 1@a:9093:x,2@b:9093:y" in (tmp_path / "calls").read_text()

    def test_a_joining_disk_votes_for_nobody(self, tmp_path: Path, tool: Path) -> None:
        self.format(tmp_path, tool)
        assert "--no-initial-controllers" in (tmp_path / "calls").read_text()
        assert "--release-version" not in (tmp_path / "calls").read_text()

    def test_a_disk_is_formatted_for_the_given_level(self, tmp_path: Path, tool: Path) -> None:
        self.format(tmp_path, tool, release_version="4.3-IV0")
        assert "--release-version 4.3-IV0" in (tmp_path / "calls").read_text()

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
    def define(self, tmp_path: Path, **changes: Any) -> str:
        """The definition as it is written; no init is there, so the module fails after that."""
        (tmp_path / "etc" / "supervisor.d").mkdir(parents=True, exist_ok=True)
        program = {"name": "kafka", "command": ["java", "-Dx=50%", "a b"], **changes}
        answer = run(tmp_path, root=str(tmp_path), programs=[program])
        assert answer["failed"] is True
        assert f"the init of {tmp_path} doesn't take kafka" in answer["msg"]
        return Path(answer["written"][0]).read_text()

    def test_the_definition_keeps_words_and_percent_signs(self, tmp_path: Path) -> None:
        text = self.define(tmp_path, environment={"A": "1%"})
        assert "command = java -Dx=50%% 'a b'\n" in text
        assert 'environment = A="1%%"\n' in text
        assert "autostart = true\n" in text

    def test_what_is_only_present_stays_down_at_the_next_boot(self, tmp_path: Path) -> None:
        assert "autostart = false\n" in self.define(tmp_path, state="present")

    def test_a_check_names_the_settings_that_differ(self, tmp_path: Path) -> None:
        self.define(tmp_path)
        program = {"name": "kafka", "command": ["java", "-Dx=50%", "a b"], "stop_seconds": 31}
        answer = run(tmp_path, root=str(tmp_path), programs=[program], _ansible_check_mode=True)
        path = str(tmp_path / "etc/supervisor.d/kafka.conf")
        assert (answer["written"], answer["definitions"]) == ([path], {path: ["stopwaitsecs"]})
        assert "stopwaitsecs = 10" in Path(path).read_text()

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
        loop = {
            "name": "loop",
            "command": ["sh", "-c", "echo wrong value; exit 3"],
            "host": "127.0.0.1",
            "port": 1,
            "timeout": 120,
        }
        ready = [{"path": str(init / "joined"), "content": ""}]
        answer = run(init, root=str(init), programs=[loop], ready_files=ready)
        assert answer["failed"]
        assert not (init / "joined").exists(), "it never served"
        assert answer["msg"].startswith("loop ended 3 times instead of listening at 127.0.0.1:1")
        assert "wrong value" in answer["tail"]
        assert time.monotonic() - began < 60

    def test_programs_start_in_turn_and_a_second_run_changes_nothing(self, init: Path) -> None:
        listens = "import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        first = {
            "name": "first",
            "command": [sys.executable, "-c", listens.format(port=port)],
            "host": "127.0.0.1",
            "port": port,
        }
        second = {"name": "second", "command": ["sleep", "600"], "state": "present"}
        answer = run(init, root=str(init), programs=[first, second])
        assert [Path(path).stem for path in answer["written"]] == ["first", "second"]
        again = run(init, root=str(init), programs=[first, second])
        assert (again["changed"], again["written"]) == (False, [])
        ready = [{"path": str(init / "joined"), "content": ""}]
        run(init, root=str(init), programs=[first], ready_files=ready, _ansible_check_mode=True)
        assert not (init / "joined").exists()
        answer = run(init, root=str(init), programs=[first], ready_files=ready)
        assert (answer["changed"], answer["written"]) == (True, [str(init / "joined")])
        assert run(init, root=str(init), programs=[first], ready_files=ready)["changed"] is False

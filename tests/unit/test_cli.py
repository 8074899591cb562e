from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kintsugi import cli
from kintsugi.fleet import REPOSITORY
from tests.installations import installation

HEAVY = (
    "airflow",
    "ansible_runner",
    "boto3",
    "cassandra",
    "kafka",
    "pandas",
    "psycopg",
    "pyarrow",
    "pyspark",
)


@pytest.fixture(autouse=True)
def _own_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = installation(tmp_path, "127.34")
    monkeypatch.setenv("KINTSUGI_STATE", str(settings.state))
    monkeypatch.setenv("KINTSUGI_FLEET", str(settings.fleet_file))


def test_deliberate_error_is_a_line_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KINTSUGI_FLEET", str(tmp_path / "nowhere.yaml"))
    assert cli.main(["status"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("kintsugi: cannot read the fleet file")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bogus"],
        ["incident"],
        ["generate", "--seed", "x", "/tmp"],
        ["release", "fly"],
        ["mttr", "--repairs", "0"],
        ["mttr", "--role", "zookeeper"],
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2


def test_a_release_command_says_how_many_digests_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release", "show"]) == 1
    assert "takes 1 digests, not 0" in capsys.readouterr().err


def test_status_is_json_when_the_environment_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMAT", "json")
    assert cli.main(["status"]) == 0
    assert json.loads(capsys.readouterr().out)["well"] is False


def test_generate_writes_the_same_day_for_the_same_seed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    days = []
    for name in ("one", "two"):
        assert cli.main(["generate", str(tmp_path / name), "--trades", "200", "--seed", "7"]) == 0
        days.append([Path(line).read_bytes() for line in capsys.readouterr().out.splitlines()])
    assert days[0] == days[1]
    assert len(days[0]) >= 3


def test_password_is_not_printed_where_it_would_be_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from kintsugi.settings import load_settings

    settings = load_settings()
    text = cli.sign_in(settings)  # pytest's stdout is no terminal
    assert settings.secret("airflow-admin") not in text
    assert str(settings.secrets / "airflow-admin") in text


def test_start_loads_nothing_heavy() -> None:
    script = f"import sys, kintsugi.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["bench", "soak", "walk"])
def test_what_needs_a_nodes_processes_says_so_where_they_can_t_be_seen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_FLEET", str(REPOSITORY / "fleet.docker.yaml"))
    assert cli.main([command]) == 1
    assert "run it in the environment 'local'" in capsys.readouterr().err

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import __main__ as command_line
from kintsugi.core.fleet import REPOSITORY
from kintsugi.db.patience import NONE, be_patient
from kintsugi.installation.former_commands import MOVED


@pytest.fixture(autouse=True)
def _no_patience_for_other_tests() -> Iterator[None]:
    """A command sets for its whole process how long it waits for the store; the next test would wait as long."""
    yield
    be_patient(NONE)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bogus"],
        ["signals", "--trades", "0"],
        ["signals", "--seed", "-1"],
        ["demo", "--trades", "0"],
        ["mttr", "--repairs", "0"],
        ["mttr", "--role", "zookeeper"],
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(words)
    assert ended.value.code == 2


@pytest.mark.parametrize("command", sorted({*MOVED.values()}))
def test_what_kintsugi_points_at_is_a_command_here(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main([command, "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize("old", command_line.RENAMED)
def test_an_old_command_says_its_new_name_and_runs(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main([old, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert f"`python -m benchmarks {command_line.RENAMED[old]}`" in said.err
    assert said.out.startswith(f"usage: python -m benchmarks {command_line.RENAMED[old]} ")


@pytest.mark.parametrize("command", ["bench", "soak-kill", "crash-test", "restore-drill", "version-drill"])
def test_what_needs_a_nodes_processes_says_so_where_they_can_t_be_seen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_FLEET", str(REPOSITORY / "fleet.docker.yaml"))
    assert command_line.main([command]) == 1
    assert "run it in the environment 'local'" in capsys.readouterr().err

"""The targets of the Makefile: named as the commands that they run, and old names work for one release."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from benchmarks import __main__ as benchmarks
from kintsugi import cli
from kintsugi.core.fleet import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text()
RULE = re.compile(r"^([a-z0-9-]+):(?!=).*\n((?:\t.*\n)*)", re.MULTILINE)
COMMAND = re.compile(r"\$\((KINTSUGI|BENCHMARKS)\) ([a-z0-9_-]+)")
MAINS = {"KINTSUGI": cli.main, "BENCHMARKS": benchmarks.main}
CALLS = [
    (rule[1], call[1], call[2]) for rule in RULE.finditer(MAKEFILE) for call in COMMAND.finditer(rule[2])
]
OLD = [
    ("form-anew", "recreate-cluster"),
    ("rounds", "sequential-recovery"),
    ("faults", "fault-matrix"),
    ("walk", "crash-test"),
    ("calm", "false-positive-test"),
    ("test-trials", "test-system"),
]


def dry_run(*words: str) -> str:
    """What make would run; the commands that call make again are run, in the same manner.

    The tests may themselves run under make, whose variables would change what this make prints.
    """
    env = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", *words],
        cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(("target", "program", "command"), CALLS)
def test_a_target_has_the_name_of_the_command_that_it_runs(target: str, program: str, command: str) -> None:
    assert command == target
    with pytest.raises(SystemExit) as ended:
        MAINS[program]([command, "--help"])
    assert ended.value.code == 0


def test_most_targets_run_a_command() -> None:
    assert len(CALLS) >= 20, "the search finds no commands any more"


def test_every_target_has_a_help_text_of_at_most_100_characters() -> None:
    texts = dict(re.findall(r"^([a-z0-9-]+):(?!=)(.*)$", MAKEFILE, re.MULTILINE))
    for target, text in texts.items():
        _, mark, told = text.partition("## ")
        assert mark, target
        assert 0 < len(told) <= 100, target


@pytest.mark.parametrize(("old", "new"), OLD)
def test_an_old_target_says_its_new_name_and_does_the_same(old: str, new: str) -> None:
    lines = dry_run(old, "ROLE=kafka").splitlines()
    assert f"`make {old}` is called `make {new}` now" in lines[0]
    assert lines[0].endswith(">&2")
    assert lines[-1] == dry_run(new, "ROLE=kafka").splitlines()[-1]
    assert f" {new.removeprefix('test-')} " in f"{lines[-1]} "


def test_the_old_variable_of_the_fault_matrix_works() -> None:
    (line,) = dry_run("fault-matrix", "CELLS=hung power_off").splitlines()
    note, _, command = line.partition("; ")
    assert "SCENARIOS=" in note
    assert note.endswith(">&2")
    assert dry_run("fault-matrix", "SCENARIOS=hung power_off").strip() == command
    assert command.endswith("fault-matrix hung power_off")

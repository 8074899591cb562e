"""What is stored by an earlier release finds the modules that have moved since."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from kintsugi import OLD_NAMES


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_old_name_is_the_same_module(old: str, new: str) -> None:
    module = import_module(new)
    assert import_module(old) is module
    assert module.__name__ == new
    assert module.__spec__ is not None
    assert module.__spec__.name == new


def test_a_program_that_was_started_under_its_old_name_is_started_again() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kintsugi.local.run_airflow", "version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("3.")

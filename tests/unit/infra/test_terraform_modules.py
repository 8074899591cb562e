"""The Terraform sources: formatted, valid, and their own tests (``*.tftest.hcl``) pass."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kintsugi.core.fleet import REPOSITORY

SOURCES = REPOSITORY / "terraform"
TESTED = sorted(str(path.parent.parent.relative_to(SOURCES)) for path in SOURCES.rglob("tests/*.tftest.hcl"))


def terraform(directory: Path, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "TF_CLI_CONFIG_FILE"}
    return subprocess.run(
        ["terraform", f"-chdir={directory}", *arguments],
        env={**environment, "TF_DATA_DIR": str(data), "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_are_tests_for_the_root_module_and_the_node() -> None:
    assert TESTED == ["local", "modules/local_node"]


@pytest.mark.parametrize("module", TESTED)
def test_the_module_passes_its_own_tests(module: str, tmp_path: Path) -> None:
    directory = SOURCES / module
    assert terraform(directory, tmp_path, "init", "-backend=false", "-input=false").returncode == 0
    assert terraform(directory, tmp_path, "validate").returncode == 0
    done = terraform(directory, tmp_path, "test", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_sources_are_formatted(tmp_path: Path) -> None:
    assert terraform(SOURCES, tmp_path, "fmt", "-check", "-recursive").stdout == ""

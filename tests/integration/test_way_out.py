"""What the scenarios rely on: with the way out blocked no package client gets anything, and each says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kintsugi.core.settings import Settings
from tests.installations import blocked_way_out, installation, leads_nowhere


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.55")


def said(settings: Settings, *command: str) -> tuple[int, str]:
    done = subprocess.run(
        command, env={**os.environ, **blocked_way_out(settings)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_address_is_dead() -> None:
    assert leads_nowhere()


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "pip", "download", "--no-cache-dir", "--no-deps", "kintsugi-nothing"],
        ["uv", "pip", "install", "--no-cache", "--dry-run", "--python", sys.executable, "kintsugi-nothing"],
        ["mvn", "-q", "-B", "-f", "{pom}", "dependency:copy-dependencies", "-DoutputDirectory={out}"],
        [sys.executable, "-c", "import urllib.request as r; r.urlopen('http://192.0.2.1/')"],
        ["apt-get", "update", "-o", "Dir::State::lists={out}", "-o", "APT::Update::Error-Mode=any"],
    ],
    ids=["pip", "uv", "maven", "python", "apt"],
)
def test_a_package_client_is_refused(command: list[str], settings: Settings, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which(command[0], path=path)
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    places = {"pom": settings.repository / "artifacts" / "kafka" / "pom.xml", "out": tmp_path / "out"}
    (tmp_path / "out" / "partial").mkdir(parents=True)
    status, text = said(settings, program, *(word.format(**places) for word in command[1:]))
    assert status != 0
    assert any(words in text for words in ("refused", "Could not connect", "http://127.0.0.1:9")), text
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*.jar"))


def test_terraform_needs_no_provider_from_anywhere(settings: Settings, tmp_path: Path) -> None:
    """The fleet's module uses what is built into Terraform, so it is made ready all the same."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("terraform", path=path)
    assert program is not None
    os.environ["TF_DATA_DIR"] = str(tmp_path / "data")
    try:
        status, text = said(
            settings, program, f"-chdir={settings.repository / 'terraform/local'}", "init", "-backend=false"
        )
    finally:
        del os.environ["TF_DATA_DIR"]
    assert status == 0, text

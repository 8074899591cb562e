"""The rival's environment: locked by hashes, made again if it isn't complete, and known to the bench alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.throughput.rival import environment
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings
from kintsugi.infra import artifacts
from tests.installations import installation

PACKAGE = re.compile(r"([a-z0-9][a-z0-9-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(artifacts, "ensure", lambda settings: [])
    # Not the machine's cache: a mark there would pass for a complete environment.
    return replace(installation(tmp_path, "127.31"), cache=tmp_path / "cache")


def test_every_package_of_the_rival_has_a_hash_and_no_index_is_named() -> None:
    text = environment.REQUIREMENTS.read_text()
    assert {name: version for name, version, _ in PACKAGE.findall(text)}["pyspark"] == "3.5.1"
    assert all(line.startswith("#") for line in PACKAGE.sub("", text).splitlines())


def test_the_jars_are_locked_and_no_part_of_the_product(settings: Settings) -> None:
    declared = environment.declare_jars(settings)
    assert artifacts.names(declared) == [environment.JARS]
    locked = artifacts.read_lock(declared.jar_lock(environment.JARS))
    assert {
        "spark-cassandra-connector_2.12-3.5.1.jar",
        "spark-sql-kafka-0-10_2.12-3.5.1.jar",
    } <= locked.keys()
    assert environment.JARS not in artifacts.names(settings)
    assert declared.jars(environment.JARS).parent == settings.artifacts


def test_a_python_that_was_not_completed_is_made_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def install(folder: Path) -> None:
        assert not folder.exists()
        folder.mkdir()
        made.append(folder)
        if len(made) == 1:
            raise KintsugiError("no network")

    monkeypatch.setattr(environment, "_install_python", install)
    with pytest.raises(KintsugiError):
        environment.ensure_environment(settings)
    assert environment.ensure_environment(settings).python == made[1] / "bin" / "python"
    environment.ensure_environment(settings)
    assert len(made) == 2


def test_an_installer_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'hash mismatch for pyspark' >&2\nexit 1\n")
    uv.chmod(0o755)
    monkeypatch.setattr("benchmarks.throughput.rival.environment.sys.executable", str(tmp_path / "python"))
    with pytest.raises(KintsugiError, match="hash mismatch for pyspark"):
        environment._install_python(tmp_path / "made")


def test_the_users_own_setting_of_certificates_stands() -> None:
    chosen = environment.installer_variables
    assert chosen({"HOME": "/h"}, system_certificates=True) == {"HOME": "/h", "UV_SYSTEM_CERTS": "true"}
    assert chosen({"UV_SYSTEM_CERTS": "false"}, system_certificates=True)["UV_SYSTEM_CERTS"] == "false"
    assert chosen({}, system_certificates=False) == {}

"""docker-compose.yaml, the docker environment's fleet file and its image agree with each other."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kintsugi.core.fleet import REPOSITORY, load_fleet

FLEET = load_fleet(REPOSITORY / "fleet.docker.yaml")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    return document


def test_the_control_plane_has_the_address_that_the_fleet_file_names(compose: dict[str, Any]) -> None:
    assert compose["services"]["control"]["networks"]["fleet"]["ipv4_address"] == FLEET.control_plane.address


def test_every_node_fits_into_the_network_which_has_the_name_of_the_fleet(compose: dict[str, Any]) -> None:
    network = compose["networks"]["fleet"]
    assert network["name"] == FLEET.name
    subnet = ipaddress.ip_network(network["ipam"]["config"][0]["subnet"])
    outside = [node.name for node in FLEET if ipaddress.ip_address(node.address) not in subnet]
    assert not outside


def test_both_environments_have_the_same_nodes() -> None:
    local = load_fleet(REPOSITORY / "fleet.yaml")
    assert FLEET.environment == "docker"
    assert {node.name: node.role for node in FLEET} == {node.name: node.role for node in local}


def test_the_state_has_one_path_on_the_machine_in_the_control_plane_and_in_the_nodes(
    compose: dict[str, Any],
) -> None:
    control = compose["services"]["control"]
    [state] = [entry for entry in control["volumes"] if isinstance(entry, dict)]
    assert state["source"] == state["target"] == control["environment"]["KINTSUGI_STATE"]


def test_compose_alone_builds_the_image_that_it_starts(compose: dict[str, Any]) -> None:
    control = compose["services"]["control"]
    assert control["build"]["context"] == "."
    assert "dockerfile" not in control["build"]
    assert control.get("pull_policy") in {None, "missing", "build"}
    assert control["image"] == control["environment"]["KINTSUGI_IMAGE"]


def test_compose_alone_finds_every_directory_and_every_variable(compose: dict[str, Any]) -> None:
    [state] = [entry for entry in compose["services"]["control"]["volumes"] if isinstance(entry, dict)]
    assert state["bind"]["create_host_path"] is True
    asked = re.findall(r"\$\{(\w+)(:-)?", (REPOSITORY / "docker-compose.yaml").read_text())
    assert {name for name, default in asked if not default} == set()


def test_the_image_is_built_of_a_fresh_clone() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    if len(tracked) < 2:
        pytest.skip("git lists no file here (an unpacked archive), so what a clone holds is not known")
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from=)(.+)$", dockerfile, re.MULTILINE)  # not of another stage
        for word in line.split()[:-1]
    ]
    called = re.findall(r"(?:^RUN |&& )(bin/\S+)", dockerfile, re.MULTILINE)
    assert "bin/docker-provider" in called
    assert "bin/bootstrap" in called
    missing = [path for path in {*copied, *called} - {"."} if path not in tracked]
    assert missing == []


def test_the_image_holds_what_runs_and_neither_test_packages_nor_caches() -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    assert "requirements-dev.txt" not in dockerfile
    assert all(
        "--runtime" in line for line in re.findall(r"bin/bootstrap(?: --.*)?$", dockerfile, re.MULTILINE)
    )
    last = dockerfile[dockerfile.rindex("\nFROM ") :]
    assert "RUN" not in last, "what a RUN leaves behind stays in the image"
    assert "--from=python /opt/kintsugi/.venv " in last


def test_the_provider_that_is_there_already_is_taken(tmp_path: Path) -> None:
    """As in the build of an image on a machine without the registry: bin/docker-image has built the provider before."""
    for path in ("bin/docker-provider", "terraform/docker/versions.tf"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / path, tmp_path / path)
    asked = re.search(r'version = "([\d.]+)"', (tmp_path / "terraform/docker/versions.tf").read_text())
    assert asked
    program = Path(
        f"registry.terraform.io/kreuzwerker/docker/{asked[1]}/linux_amd64/terraform-provider-docker_v{asked[1]}"
    )
    made = tmp_path / "build/terraform-plugins" / program
    made.parent.mkdir(parents=True)
    made.touch(0o755)

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(tmp_path / "bin/docker-provider"), str(tmp_path / "plugins"), "linux_amd64"],
            env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert call().returncode == 0
    assert os.access(tmp_path / "plugins" / program, os.X_OK)
    assert call().stdout == ""
    shutil.rmtree(tmp_path / "plugins")
    shutil.rmtree(tmp_path / "build")
    assert "run `make docker-up`" in call().stderr


def test_the_provider_that_is_built_from_source_is_the_one_that_terraform_asks_for() -> None:
    asked = re.search(r'version = "([\d.]+)"', (REPOSITORY / "terraform/docker/versions.tf").read_text())
    built = re.search(r"this is release ([\d.]+),", (REPOSITORY / "terraform/provider/go.mod").read_text())
    assert asked
    assert built
    assert asked[1] == built[1]

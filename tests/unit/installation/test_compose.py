"""docker-compose.yaml, the docker environment's fleet file and its image agree with each other."""

from __future__ import annotations

import ipaddress
import re
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


def test_the_provider_that_is_built_from_source_is_the_one_that_terraform_asks_for() -> None:
    asked = re.search(r'version = "([\d.]+)"', (REPOSITORY / "terraform/docker/versions.tf").read_text())
    built = re.search(r"this is release ([\d.]+),", (REPOSITORY / "terraform/provider/go.mod").read_text())
    assert asked
    assert built
    assert asked[1] == built[1]

"""The environment `hosts` in the fleet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kintsugi.core.errors import FleetError
from kintsugi.core.fleet import Fleet, Role, load_fleet
from kintsugi.core.membership import Membership, read_membership, write_membership

KEY = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAI="


def document(**changes: Any) -> dict[str, Any]:
    return {
        "name": "kintsugi",
        "environment": "hosts",
        "ssh_port": 2222,
        "control_plane": {
            "address": "10.0.0.1",
            "airflow_port": 1,
            "postgres_port": 2,
            "s3_port": 3,
            "log_port": 4,
        },
        "hosts": {
            "h1": {
                "address": "10.0.0.11",
                "host_key": KEY,
                "zone": "a",
                "volume_directory": "/data/kintsugi",
            },
            "h2": {"address": "10.0.0.12", "host_key": KEY, "zone": "b", "user": "deploy", "ssh_port": 2022},
        },
        "fence_agent": ["/usr/local/bin/fence", "--quiet"],
        "nodes": [
            {"name": "kafka-1", "role": "kafka", "host": "h1"},
            {"name": "kafka-2", "role": "kafka", "host": "h2", "address": "10.0.9.12", "zone": "c"},
        ],
        **changes,
    }


def load(tmp_path: Path, given: dict[str, Any]) -> Fleet:
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return load_fleet(path)


def test_a_node_takes_address_and_zone_of_its_host_unless_it_has_its_own(tmp_path: Path) -> None:
    fleet = load(tmp_path, document())
    assert [(node.name, node.host, node.address, node.zone) for node in fleet] == [
        ("kafka-1", "h1", "10.0.0.11", "a"),
        ("kafka-2", "h2", "10.0.9.12", "c"),
    ]
    assert fleet.fence_agent == ("/usr/local/bin/fence", "--quiet")


def test_a_host_is_reached_as_root_at_port_22_unless_it_says_otherwise(tmp_path: Path) -> None:
    fleet = load(tmp_path, document())
    first, second = fleet.host_of("kafka-1"), fleet.host_of("kafka-2")
    assert (first.user, first.ssh_port, first.volume_directory) == ("root", 22, "/data/kintsugi")
    assert (second.user, second.ssh_port, second.volume_directory) == ("deploy", 2022, None)


def without(given: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != key}


def host(**changes: Any) -> dict[str, Any]:
    return document(hosts={"h1": {"address": "10.0.0.11", "host_key": KEY, **changes}}, nodes=[])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (without(document(), "hosts"), "needs a mapping 'hosts:'.*docs/hosts.md"),
        (document(hosts=["h1"]), "hosts must be a mapping"),
        (host(adress="10.0.0.1"), "hosts, 'h1': unknown key 'adress'; known are: address"),
        (host(host_key="AAAA"), "hosts, 'h1': host_key must be .*ssh_host_ecdsa_key.pub"),
        (host(host_key=f"{KEY}\nssh-rsa AAAA"), "host_key must be"),
        (host(volume_directory="data"), "volume_directory must be an absolute path"),
        (host(volume_directory="/data/../etc"), "volume_directory must be an absolute path"),
        (host(volume_directory="/data/'x"), "volume_directory must be an absolute path"),
        (host(user="root; reboot"), "hosts, 'h1': user has 1 to 41"),
        (host(ssh_port="22"), "hosts, 'h1': ssh_port must be a number"),
        (host(address="h1.example"), "hosts, 'h1': address must be an IPv4 address"),
        (document(fence_agent="/bin/fence h1"), "fence_agent must be a list of words"),
        (document(fence_agent=["fence"]), "absolute path of a program"),
        (
            document(nodes=[{"name": "kafka-1", "role": "kafka", "host": "h9"}]),
            "node 1, 'kafka-1': host must be one of h1, h2, not 'h9'",
        ),
        (
            document(nodes=[{"name": "kafka-1", "role": "kafka", "address": "10.0.0.11"}]),
            "host must be one of h1, h2, not None",
        ),
        (
            document(
                nodes=[
                    {"name": "kafka-1", "role": "kafka", "host": "h1"},
                    {"name": "kafka-2", "role": "kafka", "host": "h1", "address": "10.0.0.99"},
                ]
            ),
            "kafka-1 and kafka-2 are both on the host h1",
        ),
        (document(environment="local"), "hosts at the top level is for 'environment: hosts'"),
        (without(document(environment="local"), "hosts"), "fence_agent at the top level is for"),
        (
            without(without(document(environment="docker"), "hosts"), "fence_agent"),
            "node 1, 'kafka-1': host is for 'environment: hosts', but this fleet's is docker",
        ),
    ],
)
def test_a_wrong_entry_says_what_and_where(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said):
        load(tmp_path, given)


def test_a_node_of_no_host_is_named(tmp_path: Path) -> None:
    given = document(
        environment="local", nodes=[{"name": "kafka-1", "role": "kafka", "address": "127.0.0.5"}]
    )
    fleet = load(tmp_path, without(without(given, "hosts"), "fence_agent"))
    with pytest.raises(FleetError, match="kafka-1 runs on no host"):
        fleet.host_of("kafka-1")


def test_the_record_of_members_keeps_the_host_and_names_none_where_there_is_none(tmp_path: Path) -> None:
    nodes = dict(load(tmp_path, document()).nodes)
    write_membership(tmp_path, Membership(nodes))
    found = read_membership(tmp_path)
    assert found is not None
    assert found.members == nodes
    assert found.members["kafka-1"].role is Role.KAFKA
    local = document(
        environment="local", nodes=[{"name": "kafka-1", "role": "kafka", "address": "127.0.0.5"}]
    )
    write_membership(
        tmp_path, Membership(load(tmp_path, without(without(local, "hosts"), "fence_agent")).nodes)
    )
    assert "host" not in (tmp_path / "formed/fleet.json").read_text()

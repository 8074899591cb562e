from __future__ import annotations

from pathlib import Path

import pytest

from kintsugi.core.errors import FleetError
from kintsugi.core.fleet import REPOSITORY, Fleet, Role, fleet_path, load_fleet

HEAD = """
name: kintsugi
environment: local
ssh_port: 2222
control_plane: {address: 127.34.0.9, airflow_port: 1, postgres_port: 2, s3_port: 3, log_port: 4}
nodes:
"""
GOOD = (
    HEAD
    + """
  - {name: kafka-1, role: kafka, address: 127.34.1.1}
  - {name: kafka-2, role: kafka, address: 127.34.1.2, ssh_port: 2022}
  - {name: spark-master-1, role: spark_master, address: 127.34.3.1}
"""
)


KAFKA_1 = "- {name: kafka-1, role: kafka, address: 127.0.0.1}"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return load_fleet(written(tmp_path, GOOD))


def test_the_fleet_file_of_the_checkout_is_the_fleet_of_the_design() -> None:
    fleet = load_fleet(REPOSITORY / "fleet.yaml")
    assert [len(fleet.of(role)) for role in Role] == [3, 3, 1, 2]
    assert all(node.address.startswith("127.") for node in fleet)


def test_nodes_keep_the_order_of_the_file_and_their_ports(fleet: Fleet) -> None:
    assert [(node.name, node.index, node.ssh_port) for node in fleet] == [
        ("kafka-1", 1, 2222),
        ("kafka-2", 2, 2022),
        ("spark-master-1", 1, 2222),
    ]


def test_peers_have_the_same_role_and_are_others(fleet: Fleet) -> None:
    assert [peer.name for peer in fleet.peers(fleet.node("kafka-1"))] == ["kafka-2"]
    assert fleet.peers(fleet.node("spark-master-1")) == []


def test_endpoints_are_a_bootstrap_list(fleet: Fleet) -> None:
    assert fleet.endpoints(Role.KAFKA, 9092) == ["127.34.1.1:9092", "127.34.1.2:9092"]


def test_an_unknown_node_is_answered_with_the_known_ones(fleet: Fleet) -> None:
    with pytest.raises(FleetError, match="kafka-9") as caught:
        fleet.node("kafka-9")
    assert all(name in str(caught.value) for name in fleet.nodes)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (
            f"{KAFKA_1}\n  - {{name: kafka-1, role: kafka, address: 127.0.0.2}}",
            "kafka-1",
        ),
        (
            f"{KAFKA_1}\n  - {{name: kafka-2, role: kafka, address: 127.0.0.1}}",
            "kafka-2.*kafka-1|kafka-1.*kafka-2",
        ),
        ("- {name: kafka, role: kafka, address: 127.0.0.1}", "'kafka'"),
        ("- {name: kafka-1, role: zookeeper, address: 127.0.0.1}", "zookeeper"),
        ("- {name: kafka-1, role: kafka, address: nowhere}", "nowhere"),
        ("- {name: kafka-1, role: kafka}", "address"),
        ("- just words", ""),
        (
            "- {name: ../../../etc/cron.d/x-1, role: kafka, address: 127.0.0.1}",
            r"node 1: a name .*cron\.d/x-1",
        ),
        ("- {name: Kafka-1, role: kafka, address: 127.0.0.1}", "node 1: a name"),
        ('- {name: "kafka-1\\n", role: kafka, address: 127.0.0.1}', "node 1: a name"),
        ('- {name: "kafka-١", role: kafka, address: 127.0.0.1}', "node 1: a name"),  # noqa: RUF001 - a digit
        (f"- {{name: {'k' * 47}-1, role: kafka, address: 127.0.0.1}}", "node 1: a name"),
        ("- {name: [kafka-1], role: kafka, address: 127.0.0.1}", "node 1: a name"),
        ("- {name: kafka-1, role: kafka, address: 1}", "kafka-1: address must be an IPv4 address"),
        (
            '- {name: kafka-1, role: kafka, address: "fe80::1%x\\ny"}',
            "kafka-1: address must be an IPv4 address",
        ),
        ("- {name: kafka-1, role: kafka, address: 127.0.0.1, ssh_port: 65536}", "ssh_port must be a number"),
        ("- {name: kafka-1, role: kafka, address: 127.0.0.1, ssh_port: true}", "ssh_port must be a number"),
        (
            '- {name: kafka-1, role: kafka, address: 127.0.0.1, ssh_port: "1\\n2"}',
            "ssh_port must be a number",
        ),
        (
            "- {name: kafka-1, role: kafka, address: 127.0.0.1, protected: often}",
            "kafka-1.*'often'",
        ),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(tmp_path: Path, text: str, fact: str) -> None:
    path = written(tmp_path, f"{HEAD}  {text}\n")
    with pytest.raises(FleetError, match=fact or None) as caught:
        load_fleet(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: kintsugi", "name: ../x", "name has 1 to 41"),
        ("environment: local", "environment: ../../etc", "environment has 1 to 41"),
        ("address: 127.34.0.9", 'address: "127.34.0.9\\nx"', "control_plane: address"),
        ("log_port: 4", 'log_port: "4\\n5"', "control_plane: log_port"),
    ],
)
def test_what_the_fleet_says_of_itself_is_checked_too(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(FleetError, match=said):
        load_fleet(written(tmp_path, GOOD.replace(old, new, 1)))


@pytest.mark.parametrize("text", ["", "[]", "nodes: [", "name: x"])
def test_a_file_that_is_no_fleet_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(FleetError, match=r"fleet\.yaml"):
        load_fleet(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="nothing-here"):
        load_fleet(tmp_path / "nothing-here")


def test_the_environment_chooses_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, GOOD)
    monkeypatch.setenv("KINTSUGI_FLEET", str(path))
    assert fleet_path() == path
    assert load_fleet().node("kafka-2").ssh_port == 2022
    monkeypatch.delenv("KINTSUGI_FLEET")
    assert fleet_path() == REPOSITORY / "fleet.yaml"


def test_a_node_is_protected_where_the_file_says_so(tmp_path: Path) -> None:
    nodes = (
        "  - {name: kafka-1, role: kafka, address: 127.34.1.1, protected: true}\n"
        "  - {name: kafka-2, role: kafka, address: 127.34.1.2}\n"
    )
    assert [node.protected for node in load_fleet(written(tmp_path, HEAD + nodes))] == [True, False]


ZONED = """
  - {name: kafka-1, role: kafka, address: 127.34.1.1, zone: north}
  - {name: kafka-2, role: kafka, address: 127.34.1.2, zone: room_2-b}
  - {name: cassandra-1, role: cassandra, address: 127.34.2.1}
  - {name: spark-worker-1, role: spark_worker, address: 127.34.3.2, zone: north}
  - {name: spark-worker-2, role: spark_worker, address: 127.34.3.3}
"""


def test_a_node_has_the_zone_that_the_file_gives_it(tmp_path: Path) -> None:
    fleet = load_fleet(written(tmp_path, HEAD + ZONED))
    assert [node.zone for node in fleet] == ["north", "room_2-b", None, "north", None]


def test_the_fleet_files_of_the_checkout_have_no_zones() -> None:
    for name in ("fleet.yaml", "fleet.docker.yaml"):
        assert {node.zone for node in load_fleet(REPOSITORY / name)} == {None}


@pytest.mark.parametrize(
    ("role", "lacking"), [("kafka", "kafka-1"), ("kafka", "kafka-2"), ("cassandra", "cassandra-2")]
)
def test_all_nodes_of_a_clustered_role_have_a_zone_or_none(tmp_path: Path, role: str, lacking: str) -> None:
    nodes = "".join(
        f"  - {{name: {role}-{number}, role: {role}, address: 127.34.1.{number}"
        f"{'' if f'{role}-{number}' == lacking else ', zone: a'}}}\n"
        for number in (1, 2, 3)
    )
    with pytest.raises(FleetError, match=rf"{lacking}.*\b{role}\b"):
        load_fleet(written(tmp_path, HEAD + nodes))
    load_fleet(written(tmp_path, HEAD + nodes.replace(", zone: a", "")))
    load_fleet(written(tmp_path, HEAD + nodes.replace(", zone: a", "").replace("}", ", zone: a}")))


@pytest.mark.parametrize("zone", ["", "1", "no", "North", '"a\\nb"', "[a]", "a=b"])
def test_a_zone_is_a_word(tmp_path: Path, zone: str) -> None:
    node = f"  - {{name: spark-worker-1, role: spark_worker, address: 127.34.3.2, zone: {zone}}}\n"
    with pytest.raises(FleetError, match=r"node 1, spark-worker-1: zone "):
        load_fleet(written(tmp_path, HEAD + node))


@pytest.mark.parametrize(
    ("old", "new", "place", "unknown", "known"),
    [
        (
            "environment: local",
            "environment: local\nmutual_tsl: true",
            "top level",
            "mutual_tsl",
            "mutual_tls",
        ),
        ("log_port: 4", "log_port: 4, lag_port: 5", "control_plane", "lag_port", "log_port"),
        ("ssh_port: 2022", "shs_port: 2022", "node 2, .kafka-2.", "shs_port", "ssh_port"),
        ("{name: kafka-2, role", "{nmae: kafka-2, role", "node 2", "nmae", "name"),
        ("{name: kafka-2, role", "{1: x, name: kafka-2, role", "node 2, .kafka-2.", "1", "zone"),
    ],
)
def test_a_key_that_nobody_reads_is_refused_with_the_known_ones(
    tmp_path: Path, old: str, new: str, place: str, unknown: str, known: str
) -> None:
    assert old in GOOD
    with pytest.raises(FleetError, match=rf"{place}.*\b{unknown}\b.*\b{known}\b"):
        load_fleet(written(tmp_path, GOOD.replace(old, new, 1)))

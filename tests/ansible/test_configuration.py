"""What the roles would configure, rendered by Ansible from the real inventory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from kintsugi.airflow_ext.operators.stream_submission import installed_submission
from kintsugi.controlplane.airflow_environment import own_connections
from kintsugi.core.cassandra_racks import record_zones
from kintsugi.core.certificates import create_authority
from kintsugi.core.fleet import REPOSITORY, Role
from kintsugi.core.settings import Settings
from tests.installations import give_zones, installation, open_directory

ANSIBLE = REPOSITORY / "ansible"
RENDER = """
- hosts: kafka,cassandra
  connection: local
  gather_facts: false
  tasks:
    # The variables of the roles, each with its own precedence; no task of them runs.
    - ansible.builtin.import_role: {name: kafka}
      when: false
    - ansible.builtin.import_role: {name: cassandra}
      when: false
    - kintsugi.node.service:
        files:
          - path: "{{ target }}/{{ inventory_hostname }}.properties"
            content: >-
              {{ lookup('ansible.builtin.template', roles ~ '/kafka/templates/server.properties.j2') }}
          - path: "{{ target }}/{{ inventory_hostname }}.voters"
            content: "{{ lookup('ansible.builtin.template', roles ~ '/kafka/templates/voters.j2') }}"
      when: node_role == 'kafka'
    - kintsugi.node.service:
        files:
          - path: "{{ target }}/{{ inventory_hostname }}.{{ item }}.yaml"
            content: >-
              {{ lookup('ansible.builtin.template', roles ~ '/cassandra/templates/cassandra.yaml.j2',
                        template_vars={'replacing': item == 'replace', 'joining': item == 'join'}) }}
          - path: "{{ target }}/{{ inventory_hostname }}.{{ item }}.options"
            content: >-
              {{ lookup('ansible.builtin.template', roles ~ '/cassandra/templates/jvm.options.j2',
                        template_vars={'replacing': item == 'replace', 'joining': item == 'join'}) }}
      loop: [form, join, replace]
      when: node_role == 'cassandra'
    - kintsugi.node.service:
        files:
          - path: "{{ target }}/{{ inventory_hostname }}.rackdc"
            content: >-
              {{ (cassandra_files | selectattr("path", "search", "rackdc") | first).content }}
      when: node_role == 'cassandra'
"""


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "KINTSUGI_STATE": str(settings.state),
        "KINTSUGI_FLEET": str(settings.fleet_file),
        "PYTHONPATH": str(REPOSITORY / "plugins"),
        "LC_ALL": "C.UTF-8",
    }


def call(settings: Settings, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments],
        cwd=ANSIBLE, env=environment(settings), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with open_directory() as directory:
        yield installation(directory, "127.36")


@pytest.fixture(scope="module")
def rendered(settings: Settings) -> Path:
    return render(settings)


@pytest.fixture(scope="module")
def rendered_with_tls() -> Iterator[Path]:
    with open_directory() as directory:
        made = installation(directory, "127.36")
        create_authority(made)
        yield render(made)


@pytest.fixture(scope="module")
def rendered_with_zones() -> Iterator[Path]:
    """A fleet with zones, of which those of Cassandra were changed after its cluster was formed."""
    with open_directory() as directory:
        made = installation(directory, "127.36")
        kafka = {"kafka-1": "a", "kafka-2": "b", "kafka-3": "c"}
        record_zones(made, {"cassandra-1": "a", "cassandra-2": "b", "cassandra-3": "c"})
        give_zones(made, kafka | {"cassandra-1": "c", "cassandra-2": "c", "cassandra-3": "c"})
        yield render(made)


def render(settings: Settings) -> Path:
    """The configuration of every Kafka and Cassandra node, in a directory."""
    target = settings.state / "rendered"
    target.mkdir(parents=True)
    playbook = settings.state / "render.yml"
    playbook.write_text(RENDER)
    extra = json.dumps(
        {"target": str(target), "roles": str(ANSIBLE / "roles"), "ansible_connection": "local"}
    )
    call(settings, "ansible-playbook", str(playbook), "-e", extra)
    return target


def properties(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def cassandra(rendered: Path, name: str, how: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((rendered / f"{name}.{how}.yaml").read_text())
    return document


def program(role: str, name: str) -> dict[str, Any]:
    """The program that the role defines by this name, not rendered."""

    def search(found: Any) -> Iterator[dict[str, Any]]:
        if isinstance(found, dict) and found.get("name") == name and "command" in found:
            yield found
        inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
        for one in inner:
            yield from search(one)

    files = sorted((ANSIBLE / "roles" / role).rglob("*.yml"))
    (only,) = (one for file in files for one in search(yaml.safe_load(file.read_text())))
    return only


def test_the_init_of_the_drivers_node_runs_the_submission_that_airflow_shows(
    settings: Settings, tmp_path: Path
) -> None:
    playbook, written = tmp_path / "render.yml", tmp_path / "command.json"
    tasks = [
        {"ansible.builtin.include_vars": f"{ANSIBLE}/roles/spark/{part}/main.yml"}
        for part in ("defaults", "vars")
    ] + [{"ansible.builtin.copy": {"dest": str(written), "content": "{{ command | to_json }}"}}]
    play = {"hosts": "spark_master", "connection": "local", "gather_facts": False, "tasks": tasks}
    play["vars"] = {"command": program("spark", "stream-trades")["command"]}
    playbook.write_text(yaml.safe_dump([play]))
    call(settings, "ansible-playbook", str(playbook), "-e", '{"ansible_connection": "local"}')

    words = json.loads(written.read_text())
    given = words[words.index("kintsugi.pipeline.stream.submission") + 1 :]
    run = dict(zip(given[::2], given[1::2], strict=True))
    shown, master = installed_submission(settings), own_connections(settings)["kintsugi_spark"]
    arguments = dict(zip(shown["application_args"][::2], shown["application_args"][1::2], strict=True))
    assert run == {
        **{name: value for name, value in arguments.items() if name != "--trigger-ms"},
        "--master": f"{master['host']}:{master['port']}",
        "--driver-host": shown["conf"]["spark.driver.host"],
        "--jars": str(settings.jars("spark")),
        "--application": shown["application"],
        "--py-files": shown["py_files"],
    }


def test_the_inventory_is_the_fleet(settings: Settings) -> None:
    inventory = json.loads(call(settings, "ansible-inventory", "--list"))
    for role in Role:
        assert inventory[role.value]["hosts"] == [node.name for node in settings.fleet.of(role)]
    listed = inventory["_meta"]["hostvars"]
    assert listed["kafka-2"]["ansible_port"] == 2222
    assert not listed["kafka-2"]["kafka_formed"]


def test_a_formed_cluster_is_remembered(settings: Settings) -> None:
    formed = settings.control / "formed"
    formed.mkdir(parents=True)
    (formed / "kafka").touch()
    try:
        listed = json.loads(call(settings, "ansible-inventory", "--host", "kafka-2"))
    finally:
        (formed / "kafka").unlink()
    assert listed["kafka_formed"] is True
    assert listed["cassandra_formed"] is False


@pytest.mark.parametrize("playbook", ["site.yml", "restart.yml", "rejoin_cassandra.yml"])
def test_the_playbook_parses(settings: Settings, playbook: str) -> None:
    call(settings, "ansible-playbook", "--syntax-check", f"playbooks/{playbook}")


def test_ansible_doc_shows_the_module_the_inventory_plugin_and_every_role(settings: Settings) -> None:
    module = json.loads(call(settings, "ansible-doc", "--json", "kintsugi.node.service"))
    shown = module["kintsugi.node.service"]
    assert {"preconditions", "programs", "ready_files"} <= shown["doc"]["options"].keys()
    assert {"written", "definitions", "formatted"} <= shown["return"].keys()
    assert shown["doc"]["attributes"]["check_mode"]["support"] == "full"
    plugin = json.loads(call(settings, "ansible-doc", "--json", "-t", "inventory", "kintsugi.node.fleet"))
    assert "plugin" in plugin["kintsugi.node.fleet"]["doc"]["options"]
    shown_roles = json.loads(call(settings, "ansible-doc", "--json", "--list", "-t", "role"))
    assert {"cassandra", "common", "kafka", "spark"} <= shown_roles.keys()


def test_every_broker_knows_the_same_first_voters(settings: Settings, rendered: Path) -> None:
    voters = {(rendered / f"{node.name}.voters").read_text() for node in settings.fleet.of(Role.KAFKA)}
    assert len(voters) == 1
    entries = [entry.replace("@", ":").split(":") for entry in voters.pop().split()]
    assert [entry[0] for entry in entries] == ["1", "2", "3"]
    assert len({entry[3] for entry in entries}) == 3
    assert all(len(entry[3]) == 22 for entry in entries)


def test_a_broker_listens_on_its_own_address_only(settings: Settings, rendered: Path) -> None:
    given = properties(rendered / "kafka-2.properties")
    assert given["node.id"] == "2"
    assert given["listeners"] == "PLAINTEXT://127.36.1.2:9092,CONTROLLER://127.36.1.2:9093"
    assert given["controller.quorum.bootstrap.servers"] == "127.36.1.1:9093,127.36.1.2:9093,127.36.1.3:9093"


def test_a_broker_is_in_the_rack_of_its_zone(rendered: Path, rendered_with_zones: Path) -> None:
    racks = [properties(rendered_with_zones / f"kafka-{n}.properties")["broker.rack"] for n in (1, 2, 3)]
    assert racks == ["a", "b", "c"]
    assert not [name for name in properties(rendered / "kafka-1.properties") if "rack" in name]


def test_a_cassandra_node_is_in_the_rack_that_its_cluster_was_formed_with(
    rendered: Path, rendered_with_zones: Path
) -> None:
    texts = [(rendered_with_zones / f"cassandra-{n}.rackdc").read_text() for n in (1, 2, 3)]
    assert texts == [f"dc=datacenter1\nrack={zone}\n" for zone in "abc"]
    # What every installation without zones has on its disks.
    assert (rendered / "cassandra-1.rackdc").read_text() == "dc=datacenter1\nrack=rack1\n"


def test_with_tls_no_listener_of_a_broker_is_open(rendered_with_tls: Path) -> None:
    given = properties(rendered_with_tls / "kafka-2.properties")
    assert given["listeners"] == "SSL://127.36.1.2:9092,CONTROLLER://127.36.1.2:9093"
    assert given["listener.security.protocol.map"] == "SSL:SSL,CONTROLLER:SSL"
    assert given["ssl.client.auth"] == "required"
    assert given["authorizer.class.name"].endswith(".StandardAuthorizer")
    assert "allow.everyone.if.no.acl.found" not in given  # its default is false
    assert given["super.users"] == "User:kafka;User:recovery"


def test_with_tls_cassandra_asks_every_client_and_peer(rendered_with_tls: Path) -> None:
    for how in ("form", "replace"):
        given = cassandra(rendered_with_tls, "cassandra-2", how)
        assert (given["authenticator"], given["authorizer"]) == (
            "PasswordAuthenticator",
            "CassandraAuthorizer",
        )
        for options in ("client_encryption_options", "server_encryption_options"):
            assert (given[options]["optional"], given[options]["require_client_auth"]) == (False, True)
            assert given[options]["keystore"].endswith("/nodes/cassandra-2/etc/tls/cassandra.pem")
        assert given["server_encryption_options"]["internode_encryption"] == "all"
        peers = given["internode_authenticator"]["parameters"]["trusted_peer_identities"]
        assert peers == "spiffe://kintsugi/cassandra"
        assert given["default_keyspace_rf"] == 3
        java = (rendered_with_tls / f"cassandra-2.{how}.options").read_text().splitlines()
        # Each probe of a second logs in: with the default of ten rounds that takes 0.1 s of processor time.
        assert "-Dcassandra.auth_bcrypt_gensalt_log2_rounds=4" in java


def test_one_broker_of_three_may_vanish(settings: Settings, rendered: Path) -> None:
    given = properties(rendered / "kafka-1.properties")
    assert (given["default.replication.factor"], given["min.insync.replicas"]) == ("3", "2")
    assert given["offsets.topic.replication.factor"] == "3"
    assert given["unclean.leader.election.enable"] == "false"
    assert given["auto.create.topics.enable"] == "false"


def test_the_first_tokens_share_the_ring_evenly(settings: Settings, rendered: Path) -> None:
    tokens: list[int] = []
    for node in settings.fleet.of(Role.CASSANDRA):
        given = cassandra(rendered, node.name, "form")
        own = [int(token) for token in str(given["initial_token"]).split(",")]
        assert len(own) == given["num_tokens"]
        tokens += own
    ring = sorted(tokens)
    assert ring[0] >= -(2**63)
    assert ring[-1] < 2**63
    gaps = {after - before for before, after in pairwise(ring)}
    assert max(gaps) - min(gaps) <= 1


def test_there_is_a_directory_for_each_token_range_and_the_first_is_where_it_always_was(
    settings: Settings, rendered: Path
) -> None:
    given = cassandra(rendered, "cassandra-1", "form")
    directories = [Path(path) for path in given["data_file_directories"]]
    ranges = given["num_tokens"] * len(settings.fleet.of(Role.CASSANDRA))
    assert len(set(directories)) == ranges
    assert directories[0] == settings.node_volume("cassandra-1") / "data/cassandra/data"
    assert {path.parent for path in directories} == {directories[0].parent}
    replacing = cassandra(rendered, "cassandra-1", "replace")
    assert replacing["data_file_directories"] == given["data_file_directories"]


def test_who_forms_is_a_seed_and_who_replaces_is_not_its_own(settings: Settings, rendered: Path) -> None:
    forming, replacing = (
        cassandra(rendered, "cassandra-2", "form"),
        cassandra(rendered, "cassandra-2", "replace"),
    )
    seeds = [given["seed_provider"][0]["parameters"][0]["seeds"] for given in (forming, replacing)]
    assert seeds == ["127.36.2.1,127.36.2.2,127.36.2.3", "127.36.2.1,127.36.2.3"]
    assert (forming["auto_bootstrap"], replacing["auto_bootstrap"]) == (False, True)
    assert "initial_token" not in replacing  # it takes the tokens of the dead node
    flag = "-Dcassandra.replace_address_first_boot=127.36.2.2"
    assert flag in (rendered / "cassandra-2.replace.options").read_text().splitlines()
    assert "replace_address" not in (rendered / "cassandra-2.form.options").read_text()


def test_no_cassandra_port_is_on_a_shared_address(settings: Settings, rendered: Path) -> None:
    given = cassandra(rendered, "cassandra-3", "form")
    assert given["listen_address"] == given["rpc_address"] == "127.36.2.3"
    options = (rendered / "cassandra-3.form.options").read_text().splitlines()
    assert "-Dcassandra.jmx.local.port=23623" in options  # loopback, so a port of its own
    assert not [line for line in options if line.startswith("-Dcom.sun.management.jmxremote.port")]


def test_a_node_that_joins_bootstraps_consistently_and_is_no_seed_of_its_own(rendered: Path) -> None:
    joining = cassandra(rendered, "cassandra-2", "join")
    (provider,) = joining["seed_provider"]
    assert joining["auto_bootstrap"] is True
    assert "initial_token" not in joining
    assert joining["allocate_tokens_for_local_replication_factor"] == 2
    assert "127.36.2.2" not in provider["parameters"][0]["seeds"]
    options = (rendered / "cassandra-2.join.options").read_text().splitlines()
    assert not [option for option in options if "consistent.rangemovement" in option]
    assert not [option for option in options if "replace_address" in option]
    assert any(option.endswith("/join.yaml") for option in options)

"""The rules of network faults: which packets they name, for how long, and that they name no others."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kintsugi.chaos.network import CHAIN, NetworkFault, chain_of, iptables_rules, queue_of, reason_unavailable
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role, load_fleet

NODE = Node("cassandra-1", Role.CASSANDRA, "127.20.2.1", 2222)
ENDS = datetime(2026, 11, 28, 12, 0, 30, tzinfo=UTC)


def rules(fault: NetworkFault, node: Node = NODE) -> list[list[str]]:
    """The rules of the fault's own chain, as words."""
    lines = iptables_rules(fault, node, ENDS).splitlines()
    return [line.split() for line in lines if line.startswith(f"-A {CHAIN}")]


@pytest.mark.parametrize("fault", NetworkFault)
def test_every_rule_names_the_node_and_the_moment_at_which_it_ends(fault: NetworkFault) -> None:
    assert rules(fault)
    for rule in rules(fault):
        assert NODE.address in rule
        assert rule[rule.index("--datestop") + 1] == "2026-11-28T12:00:30"


@pytest.mark.parametrize("fault", NetworkFault)
def test_one_rule_of_input_leads_to_the_chain_and_only_from_the_loopback(fault: NetworkFault) -> None:
    lines = iptables_rules(fault, NODE, ENDS).splitlines()
    assert [line for line in lines if line.startswith("-A INPUT")] == [
        f"-A INPUT -i lo -j {chain_of(NODE.name)}"
    ]
    assert (lines[0], lines[-1]) == ("*filter", "COMMIT")


@pytest.mark.parametrize("fault", [NetworkFault.REJECT, NetworkFault.DROP])
def test_only_new_connections_to_the_probed_ports_are_hit(fault: NetworkFault) -> None:
    (rule,) = rules(fault)
    assert rule[rule.index("--dports") + 1] == "9042,2222"
    assert "--syn" in rule
    assert rule[rule.index("-d") + 1] == NODE.address


def test_one_way_hits_what_the_probed_ports_send() -> None:
    (rule,) = rules(NetworkFault.ONE_WAY)
    assert rule[rule.index("-s") + 1] == NODE.address
    assert rule[rule.index("--sports") + 1] == "9042,2222"


def test_packets_pass_where_nobody_reads_the_queue() -> None:
    (rule,) = rules(NetworkFault.DELAY)
    assert rule[-1] == "--queue-bypass"
    assert rule[rule.index("--queue-num") + 1] == str(queue_of(NODE.name))


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "128.0.0.1"])
def test_no_rule_is_made_for_an_address_outside_of_the_loopback(address: str) -> None:
    with pytest.raises(StepFailed):
        iptables_rules(NetworkFault.DROP, Node("kafka-1", Role.KAFKA, address, 22), ENDS)


def test_nodes_of_a_fleet_share_no_chain_and_no_queue() -> None:
    names = list(load_fleet().nodes)
    assert len({chain_of(name) for name in names}) == len(names)
    assert len({queue_of(name) for name in names}) == len(names)
    assert all(len(chain_of(name)) <= 28 and queue_of(name) < 65_536 for name in [*names, "x" * 60])


def test_containers_have_a_network_of_their_own() -> None:
    assert reason_unavailable("docker") is not None

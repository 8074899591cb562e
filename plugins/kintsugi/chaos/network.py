"""Network faults of the local environment: iptables rules that affect only the fleet's loopback addresses.

1. Every fault has its own chain, whose name begins with CHAIN. One rule of INPUT jumps to it. `restore` finds both by
   that name, so no state has to be stored.
2. Every rule contains its end time (``-m time --datestop``, UTC). The kernel ignores it afterwards, even if every
   process that could remove it was killed.
3. iptables has no target for delay, and many kernels lack ``netem``. The packets go to a queue that
   `kintsugi.chaos.packet_delay` reads. Without a reader the kernel lets them pass (``--queue-bypass``).

The rules apply to incoming packets (INPUT): a rejected connection looks as if a firewall on the node had answered.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from zlib import crc32

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node
from kintsugi.probes.protocols import PORTS

CHAIN = "KCHAOS-"
LOSS = 0.05
DELAY_S = 0.6
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_TIMEOUT_S = 20.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class NetworkFault(StrEnum):
    """What happens to the packets."""

    REJECT = "reject"  # a new connection to the service or to sshd is reset at once
    DROP = "drop"  # a new connection to the service or to sshd gets no answer
    ONE_WAY = "one_way"  # packets reach service and sshd; their replies are lost
    DELAY = "delay"  # each packet to the node takes DELAY_S longer, so each round trip does
    LOSS = "loss"  # the share LOSS of the packets to and from the node is lost


@dataclass(frozen=True, slots=True)
class _Rule:
    match: tuple[str, ...]
    target: tuple[str, ...]


def chain_of(node: str) -> str:
    """The chain of a node's fault; iptables allows 28 characters."""
    return f"{CHAIN}{node}"[:28]


def queue_of(node: str) -> int:
    """The number of the queue that a node's delayed packets go to, above the commonly used numbers."""
    return 20_000 + crc32(node.encode()) % 40_000


def iptables_rules(fault: NetworkFault, node: Node, ends_at: datetime) -> str:
    """The input of ``iptables-restore --noflush`` that makes this fault until ``ends_at`` (UTC).

    Raises StepFailed for an address outside of 127.0.0.0/8: the rules must never affect other traffic.
    """
    if ipaddress.ip_address(node.address) not in _LOOPBACK:
        raise StepFailed(f"{node.name}: {node.address} is not a loopback address, so no rule is made for it")
    chain, until = chain_of(node.name), f"{ends_at:%Y-%m-%dT%H:%M:%S}"
    bounded = ("-m", "time", "--datestop", until)
    rules = [" ".join(("-A", chain, *rule.match, *bounded, *rule.target)) for rule in _rules_of(fault, node)]
    return "\n".join(["*filter", f":{chain} - [0:0]", *rules, f"-A INPUT -i lo -j {chain}", "COMMIT", ""])


def _rules_of(fault: NetworkFault, node: Node) -> list[_Rule]:
    ports = f"{PORTS[node.role]},{node.ssh_port}"
    to, from_ = ("-d", node.address), ("-s", node.address)
    new = (*to, "-p", "tcp", "-m", "multiport", "--dports", ports, "-m", "tcp", "--syn")
    if fault is NetworkFault.REJECT:
        return [_Rule(new, ("-j", "REJECT", "--reject-with", "tcp-reset"))]
    if fault is NetworkFault.DROP:
        return [_Rule(new, ("-j", "DROP"))]
    if fault is NetworkFault.ONE_WAY:
        return [_Rule((*from_, "-p", "tcp", "-m", "multiport", "--sports", ports), ("-j", "DROP"))]
    if fault is NetworkFault.LOSS:
        chance = ("-m", "statistic", "--mode", "random", "--probability", str(LOSS))
        return [_Rule((*way, *chance), ("-j", "DROP")) for way in (to, from_)]
    queue = ("-j", "NFQUEUE", "--queue-num", str(queue_of(node.name)), "--queue-bypass")
    return [_Rule(to, queue)]


def impose_fault(fault: NetworkFault, node: Node, ends_at: datetime) -> None:
    """Make the fault until ``ends_at`` (UTC); it replaces another network fault of the node. Raises StepFailed."""
    remove_fault(node.name)
    _run_iptables("iptables-restore", ["--noflush"], iptables_rules(fault, node, ends_at))


def remove_fault(node: str) -> bool:
    """Remove every rule of the node's chain, and the chain; False when there was none. Raises StepFailed."""
    chain = chain_of(node)
    present = [line.split() for line in _list_rules()]
    jumps = [words for words in present if words[:2] == ["-A", "INPUT"] and words[-2:] == ["-j", chain]]
    for jump in jumps:
        _run_iptables("iptables", ["-D", *jump[1:]])
    if ["-N", chain] not in present:
        return bool(jumps)
    _run_iptables("iptables", ["-F", chain])
    _run_iptables("iptables", ["-X", chain])
    return True


def nodes_with_fault(fleet: Fleet) -> list[str]:
    """The nodes of the fleet with a chain of a network fault."""
    chains = {words[1] for line in _list_rules() if (words := line.split())[:1] == ["-N"]}
    return [name for name in fleet.nodes if chain_of(name) in chains]


def reason_unavailable(environment: str) -> str | None:
    """Why no network fault can be made here; None when it can."""
    if environment != "local":
        return f"network faults exist only in the environment local, not in {environment}"
    if os.geteuid() != 0:
        return "iptables needs root"
    if shutil.which("iptables-restore", path=_PATH) is None:
        return "iptables is not installed: run `apt-get install iptables`"
    return _refused_by_the_kernel()


@cache
def _refused_by_the_kernel() -> str | None:
    """Try an unused chain: a container may lack the permission, or the kernel may lack a match."""
    trial = f"{CHAIN}trial-{os.getpid()}"
    rule = (
        "-p tcp -m time --datestop 2000-01-01T00:00:00 -m statistic --mode random --probability 0.1 -j DROP"
    )
    reject = f"-A {trial} -p tcp -m multiport --dports 9 -m tcp --syn -j REJECT --reject-with tcp-reset"
    text = f"*filter\n:{trial} - [0:0]\n-A {trial} {rule}\n{reject}\nCOMMIT\n"
    try:
        _run_iptables("iptables-restore", ["--noflush"], text)
        _run_iptables("iptables", ["-F", trial])
        _run_iptables("iptables", ["-X", trial])
    except StepFailed as failure:
        return str(failure)
    return None


def _list_rules() -> list[str]:
    return [line for line in _run_iptables("iptables", ["-S"]).splitlines() if line]


def _run_iptables(program: str, arguments: Sequence[str], text: str = "") -> str:
    environment: Mapping[str, str] = {**os.environ, "PATH": _PATH}
    try:
        done = subprocess.run(
            [program, "-w", "5", *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepFailed(f"{program} can't be run: {error}") from error
    if done.returncode:
        error_lines = done.stderr.strip().splitlines()
        raise StepFailed(
            f"{program} {' '.join(arguments)}: {error_lines[0] if error_lines else done.returncode}"
        )
    return done.stdout

"""What a node reports over SSH: of its own service, and of another node that we can't reach.

This module is also the program that runs on the node. It has three commands:

* ``service``: the process of the service, whether a socket listens on its port, and its answer to a probe from the
  node, as JSON. If we are refused although the socket listens, something between us refuses, such as a firewall.
* ``look``: the answer of another node to a probe from here, and whether a connection to it is established, as JSON.
* ``kill``: probes the service from the node, and kills exactly one process if it doesn't answer. Prints KILLED,
  ANSWERS or GONE. A command that a stalled network delivers late finds that the service answers again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from kintsugi.core.certificates import has_authority
from kintsugi.core.client_tls import TLS_DIRECTORY
from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import NodeView, ProbeResult, ProcessorUse, ServiceProcess
from kintsugi.core.processes import find_listener, start_time
from kintsugi.core.settings import (
    CASSANDRA_PORT,
    CASSANDRA_STORAGE_PORT,
    KAFKA_CONTROLLER_PORT,
    KAFKA_PORT,
    SPARK_MASTER_PORT,
    Settings,
)
from kintsugi.probes.protocols import PORTS, probe_node

TIMEOUT_S = 1.5
SAMPLE_S = 0.5  # at least, in which the processor use of the service is measured
KILLED, ANSWERS, GONE = "killed", "answers", "gone"
_OWN_PORTS = {
    Role.KAFKA: (KAFKA_PORT, KAFKA_CONTROLLER_PORT),
    Role.CASSANDRA: (CASSANDRA_PORT, CASSANDRA_STORAGE_PORT),
}
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - only compared
_LOOPBACK = "127.0.0.1"  # Cassandra's JMX


def service_command(settings: Settings, node: Node, service: str) -> list[str]:
    """Return the command that prints on ``node`` what ``parse_view`` reads."""
    conf = settings.node_root(node.name) / "etc" / "supervisord.conf"
    return [*_program_command(settings, node), "service", str(conf), service, node.role.value, node.address]


def look_command(settings: Settings, node: Node, target: Node) -> list[str]:
    """Return the command that prints on ``node`` what ``parse_look`` reads about ``target``."""
    return [*_program_command(settings, node), "look", target.role.value, target.address]


def kill_command(settings: Settings, node: Node, process: ServiceProcess) -> list[str]:
    """Return the command that kills exactly ``process`` on ``node`` if its service doesn't answer there."""
    identity = [str(process.pid), str(process.start_time)]
    return [*_program_command(settings, node), "kill", *identity, node.role.value, node.address]


def _program_command(settings: Settings, node: Node) -> list[str]:
    """The program with the certificates of ``node``, on which it runs."""
    directory = settings.node_tls(node.name) if has_authority(settings) else ""
    variables = [f"PYTHONPATH={settings.repository / 'plugins'}", f"{TLS_DIRECTORY}={directory}"]
    return ["env", *variables, sys.executable, "-m", "kintsugi.probes.node_view"]


def parse_view(output: str | None) -> NodeView:
    """Parse the program's output; every field is unknown if the output is something else."""
    document = _parse_object(output)
    process = document.get("process")
    return NodeView(
        process=ServiceProcess(*map(int, process)) if process else None,
        ended=document.get("ended"),
        cpu_s=document.get("cpu_s"),
        listening=document.get("listening"),
        connected=document.get("connected"),
        answer=ProbeResult(document["answer"]) if document.get("answer") else None,
        processor=ProcessorUse(*document["processor"]) if document.get("processor") else None,
        elsewhere=tuple(document.get("elsewhere", ())),
    )


def parse_look(output: str | None) -> tuple[ProbeResult | None, bool]:
    """Return the target's answer there, None if unknown, and whether a connection to its service is established."""
    document = _parse_object(output)
    answer = ProbeResult(document["answer"]) if document.get("answer") else None
    return answer, bool(document.get("established"))


def _parse_object(output: str | None) -> dict[str, Any]:
    with suppress(ValueError):
        document = json.loads(output or "")
        if isinstance(document, dict):
            return document
    return {}


def has_connection(address: str, ports: Sequence[int]) -> bool:
    """Whether a connection from here to ``address`` and one of ``ports`` is established."""
    # A JVM connects to IPv4 addresses through IPv6 sockets, which have mapped addresses.
    addresses = (address, f"::ffff:{address}")
    return any(
        one.status == psutil.CONN_ESTABLISHED and one.raddr.ip in addresses and one.raddr.port in ports
        for one in psutil.net_connections(kind="tcp")
    )


def _read_process(conf: str, service: str) -> tuple[list[int] | None, float | None, bool]:
    """Return process id and start of the service, the processor time that it has used in seconds, and if it ended.

    It has ended only if the init says so. An init that doesn't answer says nothing about it.
    """
    done = subprocess.run(
        ["supervisorctl", "-c", conf, "pid", service], capture_output=True, text=True, check=False, timeout=6
    )
    pid = done.stdout.strip()
    if not pid.isdigit() or pid == "0":
        return None, None, pid == "0"
    start, used = start_time(int(pid)), psutil.Process(int(pid)).cpu_times()
    return (None, None, False) if start is None else ([int(pid), start], used.user + used.system, False)


def foreign_endpoints(pid: int, node: Node) -> list[str]:
    """Return the endpoints on which a service of ``node`` listens and which its role doesn't have; sorted.

    Empty for Spark, whose processes choose ports by themselves, and if the process has ended.
    """
    ports = _OWN_PORTS.get(node.role)
    with suppress(psutil.Error):
        found = psutil.Process(pid).net_connections(kind="tcp") if ports else []
        listened = {
            (one.laddr.ip.removeprefix("::ffff:"), one.laddr.port)
            for one in found
            if one.status == psutil.CONN_LISTEN
        }
        return sorted(
            f"{address}:{port}"
            for address, port in listened
            if not (port in (ports or ()) and address in (node.address, *_ALL_ADDRESSES))
            and address != _LOOPBACK
        )
    return []


def processor_ns(pid: int) -> tuple[int, int]:
    """Return for how many ns the threads of ``pid`` used the processor, and waited for it (the kernel's run_delay)."""
    used = waited = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):
            fields = thread.read_text().split()
            used, waited = used + int(fields[0]), waited + int(fields[1])
    return used, waited


async def _can_connect(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


def _gather_view(conf: str, service: str, node: Node) -> dict[str, Any]:
    process, cpu_s, ended = None, None, False
    with suppress(OSError, subprocess.TimeoutExpired, psutil.Error):
        process, cpu_s, ended = _read_process(conf, service)
    port, started_s = PORTS[node.role], time.monotonic()
    before = processor_ns(process[0]) if process else None
    view: dict[str, Any] = {
        "process": process,
        "ended": ended,
        "cpu_s": cpu_s,
        "listening": find_listener(node.address, port) is not None,
        "connected": asyncio.run(_can_connect(node.address, port)),
        "answer": asyncio.run(probe_node(node, TIMEOUT_S)).answer,
        "elsewhere": foreign_endpoints(process[0], node) if process else [],
    }
    if process and before:
        time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - started_s)))
        after = processor_ns(process[0])
        used_s, waited_s = ((late - early) / 1e9 for early, late in zip(before, after, strict=True))
        view["processor"] = [time.monotonic() - started_s, used_s, waited_s]
    return view


def _probe_target(node: Node) -> dict[str, Any]:
    ports = [PORTS[node.role], SPARK_MASTER_PORT] if node.role is Role.SPARK_MASTER else [PORTS[node.role]]
    return {
        "answer": asyncio.run(probe_node(node, TIMEOUT_S)).answer,
        "established": has_connection(node.address, ports),
    }


def kill_silent(node: Node, process: ServiceProcess) -> str:
    """Kill the process unless the service of ``node`` answers; returns KILLED, ANSWERS or GONE."""
    try:
        # Through a descriptor, and after a comparison of the start: another process may have the same number by now.
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return GONE
    if start_time(process.pid) != process.start_time:
        return GONE
    if asyncio.run(probe_node(node, TIMEOUT_S)).answer is ProbeResult.OK:
        return ANSWERS
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return GONE
    return KILLED


def main(arguments: Sequence[str]) -> None:
    """Print the answer to one command."""
    parser = argparse.ArgumentParser(prog="kintsugi.probes.node_view")
    looks = parser.add_subparsers(dest="look", required=True)
    own = looks.add_parser("service")
    for name in ("conf", "service"):
        own.add_argument(name)
    kill = looks.add_parser("kill")
    for name in ("pid", "start_time"):
        kill.add_argument(name, type=int)
    for look in (own, looks.add_parser("look"), kill):
        look.add_argument("role", type=Role)
        look.add_argument("address")
    options = parser.parse_args(arguments)
    node = Node("looked-at-0", options.role, options.address, 0)
    if options.look == "kill":
        print(kill_silent(node, ServiceProcess(options.pid, options.start_time)))
        return
    print(
        json.dumps(
            _gather_view(options.conf, options.service, node)
            if options.look == "service"
            else _probe_target(node)
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])

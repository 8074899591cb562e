"""The log collector: an rsyslogd that receives every node's logs over TCP while the node lives.

A lost host can't hand over its logs, so what a dead node said last is here:
``control/node-logs/<node>/<service>.log``.

With an authority (`kintsugi.core.certificates`) only a node can send, over TLS. Without one anybody can. In both cases
what a sender can do here is bounded:

1. Only names of the fleet's nodes and of their services become paths. A message of another service of a node goes to
   its `OTHER`, any other message to `UNKNOWN`; both say who sent it.
2. In `docker`, where each node has its own source address, a node's name counts only from its address.
3. A file is moved to ``<file>.1`` when it is full. So all files take at most `most_bytes` on the disk.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.core.certificates import Principal, collector_certificate, has_authority
from kintsugi.core.errors import PreflightError
from kintsugi.environments.local.node_config import format_rsyslog_tls
from kintsugi.infra.supervisord import Program

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

MAX_BYTES = 16 * 1024 * 1024  # of one service's log, before it becomes <service>.log.1
MESSAGE_BYTES = 64 * 1024
OTHER, UNKNOWN = "other.log", "unknown.log"
_SENDERS = (Principal.KAFKA, Principal.CASSANDRA, Principal.STREAM)
SERVICES = (
    "init", "sshd", "rsyslogd", "kafka", "cassandra", "spark-master", "spark-worker", "stream-trades",
)  # fmt: skip
"""The programs of a node, whatever its role: names of the files in its ``log/``."""

_CONFIGURATION = """\
# Written by `kintsugi up`. Receives the nodes' logs; a name from the network becomes a path only if it is known.
global(workDirectory="{directory}" maxMessageSize="{message_bytes}" processInternalMessages="off"
       net.enableDNS="off"{certificates})
module(load="imtcp" maxSessions="200" keepAlive="on"{from_whom})
input(type="imtcp" address="{address}" port="{port}" ruleset="collect")
template(name="file" type="string"
         string="{logs}/%HOSTNAME%/%$!file%")
template(name="line" type="string" string="%TIMESTAMP:::date-rfc3339%%msg:::sp-if-no-1st-sp%%msg%\\n")
template(name="sender" type="string"
         string="%TIMESTAMP:::date-rfc3339% %fromhost-ip% %HOSTNAME:1:64% %APP-NAME:1:64%:%msg:::sp-if-no-1st-sp%\
%msg%\\n")
ruleset(name="collect") {{
  if {known_node} then {{
    if $app-name == [{services}] then {{
      set $!file = $app-name & ".log";
      action(type="omfile" dynaFile="file" template="line" dynaFileCacheSize="{most_files}" {writing})
    }} else {{
      set $!file = "{other}";
      action(type="omfile" dynaFile="file" template="sender" dynaFileCacheSize="{most_files}" {writing})
    }}
  }} else {{
    action(type="omfile" file="{logs}/{unknown}" template="sender" {writing})
  }}
}}
"""
_FROM_NODES = """
       streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/name" permittedPeer=[{peers}]\
"""
_WRITING = """\
dirCreateMode="0700" fileCreateMode="0600" flushOnTXEnd="on" asyncWriting="off"
             rotation.sizeLimit="{max_bytes}" rotation.sizeLimitCommand="{rotate}"\
"""


@dataclass(frozen=True, slots=True)
class LogCollector:
    """The collector of one installation; it writes below ``logs``.

    ``senders``: the nodes that may send, each with the address that it must send from; None where all nodes share one.
    ``certificate``: the file with its key and certificate; None without TLS.
    """

    address: str
    port: int
    directory: Path
    logs: Path
    senders: Mapping[str, str | None]
    max_bytes: int = MAX_BYTES
    certificate: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> LogCollector:
        """Return the collector that ``settings`` describes."""
        fleet, control = settings.fleet, settings.control
        plane = fleet.control_plane
        # In `local` every node sends from the loopback interface, whatever its own address.
        own_address = fleet.environment != "local"
        senders = {node.name: node.address if own_address else None for node in fleet}
        return cls(
            plane.address, plane.log_port, control / "log-collector", control / "node-logs", senders,
            certificate=collector_certificate(settings) if has_authority(settings) else None,
        )  # fmt: skip

    @property
    def most_files(self) -> int:
        """So many files are written to at most: one a service of each node, its OTHER, and UNKNOWN."""
        return len(self.senders) * (len(SERVICES) + 1) + 1

    @property
    def most_bytes(self) -> int:
        """So much all files take at most: each exists twice, and the last message may exceed its bound."""
        return self.most_files * 2 * (self.max_bytes + 2 * MESSAGE_BYTES)

    def prepare(self) -> None:
        """Write the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = _CONFIGURATION.format(
            directory=self.directory,
            address=self.address,
            port=self.port,
            logs=self.logs,
            message_bytes=MESSAGE_BYTES,
            known_node=self._known_node(),
            certificates=format_rsyslog_tls(self.certificate.parent, self.certificate.name)
            if self.certificate
            else "",
            from_whom=_FROM_NODES.format(peers=", ".join(f'"{name}"' for name in _SENDERS))
            if self.certificate
            else "",
            services=", ".join(f'"{name}"' for name in SERVICES),
            most_files=self.most_files,
            other=OTHER,
            unknown=UNKNOWN,
            writing=_WRITING.format(max_bytes=self.max_bytes, rotate=self._rotate),
        )
        (self.directory / "rsyslog.conf").write_text(text)
        # rsyslogd calls it without the name of the full file, so every full one is moved.
        full = f"-name '*.log' -size +{self.max_bytes - 1}c"
        self._rotate.write_text(
            f"#!/bin/sh\nfind {shlex.quote(str(self.logs))} {full} -exec mv -f '{{}}' '{{}}.1' ';'\n"
        )
        self._rotate.chmod(0o700)

    def _known_node(self) -> str:
        """The condition, in RainerScript, that a message is one of a node of the fleet."""
        terms = [
            f'($hostname == "{name}"' + (f' and $fromhost-ip == "{address}")' if address else ")")
            for name, address in self.senders.items()
        ]
        return " or ".join(terms) or "0 == 1"

    def program(self) -> Program:
        """Return its entry for supervisord."""
        rsyslogd = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin:/sbin")
        if rsyslogd is None:
            raise PreflightError("no rsyslogd is installed: run `apt-get install rsyslog`")
        configuration = str(self.directory / "rsyslog.conf")
        # Without a pid file: after a crash another process may have that pid, and rsyslogd would not start.
        return Program("log-collector", [rsyslogd, "-n", "-f", configuration, "-iNONE"], stop_seconds=5)

    @property
    def _rotate(self) -> Path:
        return self.directory / "rotate"

"""The log collector: an rsyslogd that receives every node's logs over TCP while the node lives.

The logs of a lost host can't be fetched any more. So the last lines of a dead node are here:
``control/node-logs/<node>/<service>.log``, limited by rotation.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.core.errors import PreflightError
from kintsugi.infra.supervisord import Program

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

MAX_BYTES = 16 * 1024 * 1024  # of one service's log, before it becomes <service>.log.1

_CONFIGURATION = """\
# Written by `kintsugi up`. Receives the nodes' logs; a name from the network never leaves the directory.
global(workDirectory="{directory}" maxMessageSize="64k" processInternalMessages="off")
module(load="imtcp" maxSessions="200" keepAlive="on")
input(type="imtcp" address="{address}" port="{port}" ruleset="collect")
template(name="file" type="string"
         string="{logs}/%HOSTNAME:::secpath-replace%/%APP-NAME:::secpath-replace%.log")
template(name="line" type="string" string="%TIMESTAMP:::date-rfc3339%%msg:::sp-if-no-1st-sp%%msg%\\n")
ruleset(name="collect") {{
  action(type="omfile" dynaFile="file" template="line" dynaFileCacheSize="64"
         dirCreateMode="0700" fileCreateMode="0600" flushOnTXEnd="on" asyncWriting="off"
         rotation.sizeLimit="{max_bytes}" rotation.sizeLimitCommand="{rotate}")
}}
"""


@dataclass(frozen=True, slots=True)
class LogCollector:
    """The collector of one installation; it writes below ``logs``."""

    address: str
    port: int
    directory: Path
    logs: Path
    max_bytes: int = MAX_BYTES

    @classmethod
    def of(cls, settings: Settings) -> LogCollector:
        """Return the collector that ``settings`` describes."""
        plane = settings.fleet.control_plane
        control = settings.control
        return cls(plane.address, plane.log_port, control / "log-collector", control / "node-logs")

    def prepare(self) -> None:
        """Write the configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = _CONFIGURATION.format(
            directory=self.directory,
            address=self.address,
            port=self.port,
            logs=self.logs,
            max_bytes=self.max_bytes,
            rotate=self._rotate,
        )
        (self.directory / "rsyslog.conf").write_text(text)
        # rsyslogd calls it without the name of the full file, so every full one is moved.
        full = f"-name '*.log' -size +{self.max_bytes - 1}c"
        self._rotate.write_text(
            f"#!/bin/sh\nfind {shlex.quote(str(self.logs))} {full} -exec mv -f '{{}}' '{{}}.1' ';'\n"
        )
        self._rotate.chmod(0o700)

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

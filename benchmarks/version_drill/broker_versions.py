"""Which version of Kafka each broker really runs: by the jars that its process has open, and by what it answers.

Neither is taken from a record of ours. A JVM opens the jars of its class path when it starts. What a broker answers
(`kintsugi.wire.kafka.Features`) follows from its program: each version of Kafka knows features up to another level.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from kintsugi.core.fleet import Fleet, Role
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.environments.local.node_process import member_pids
from kintsugi.probes.peers import ask_each
from kintsugi.wire.kafka import METADATA_FEATURE, read_features

LOOK_S = 0.5
_JAR = re.compile(r"/kafka_2\.13-([^/]+)\.jar$")


@dataclass(frozen=True, slots=True)
class BrokerAnswer:
    """The level of ``metadata.version`` that one broker knows, and the one that its cluster uses."""

    known: int
    used: int


@dataclass(frozen=True, slots=True)
class VersionChange:
    """From ``at`` on (seconds since 1970) the broker's process had another version; None: no broker ran."""

    at: float
    node: str
    version: str | None


def jar_version(pids: Iterable[int]) -> str | None:
    """Return the version of the Kafka that one of these processes has open; None if none has."""
    for pid in pids:
        with suppress(OSError):  # it ended a moment ago
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if found := _JAR.search(str(handle.readlink())):
                        return found[1]
    return None


def read_process_versions(settings: Settings) -> dict[str, str | None]:
    """Return by broker the version of Kafka that its process runs; None while it runs none."""
    brokers = settings.fleet.of(Role.KAFKA)
    return {broker.name: jar_version(member_pids(settings, broker.name)) for broker in brokers}


def ask_brokers(fleet: Fleet) -> dict[str, BrokerAnswer]:
    """Return what each broker answers about its features, without those that don't answer."""
    answers = asyncio.run(ask_each(fleet.of(Role.KAFKA), KAFKA_PORT, read_features))
    return {
        name: BrokerAnswer(answer.supported[METADATA_FEATURE], answer.finalized.get(METADATA_FEATURE, 0))
        for name, answer in answers.items()
    }


class VersionWatch:
    """Looks at the brokers' processes every LOOK_S seconds while the block runs; ``changes`` grows."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker versions", daemon=True)
        self._last: dict[str, str | None] = {}
        self.changes: list[VersionChange] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.observe(read_process_versions(self._settings), time.time())
            self._stop.wait(LOOK_S)

    def observe(self, versions: Mapping[str, str | None], now: float) -> None:
        """Record which brokers run another version than at the last look."""
        for node, version in versions.items():
            if node not in self._last or self._last[node] != version:
                self.changes.append(VersionChange(now, node, version))
        self._last = dict(versions)


def versions_seen(changes: Iterable[VersionChange]) -> dict[str, list[str]]:
    """Return by broker the versions that it ran, in order, each as often as it was started anew. Pure."""
    seen: dict[str, list[str]] = {}
    for change in changes:
        run = seen.setdefault(change.node, [])
        if change.version is not None:
            run.append(change.version)
    return seen

"""Traffic during a trial of a release: what fails of it, and how long it ever stood still."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.fleet import Fleet, Role
from kintsugi.core.settings import KAFKA_PORT

if TYPE_CHECKING:
    from kafka import KafkaProducer

TOPIC = "kintsugi.trials"
ACK_S = 30.0

Beat = Callable[[], None]

log = logging.getLogger(__name__)


@dataclass
class TrafficProbe:
    """One kind of request, repeated. ``longest_s``: the longest time from one success to the next, in seconds."""

    name: str
    every_s: float
    done: int = 0
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    def run(self, beat: Beat, stop: threading.Event) -> None:
        """Repeat the request until ``stop``; a failure is recorded, and the next request tried."""
        last = time.monotonic()
        while not stop.is_set():
            try:
                beat()
            except Exception as error:  # noqa: BLE001 - whatever a driver raises is the finding
                self.failures.append(f"{type(error).__name__}: {error}")
                log.warning("%s: %s", self.name, error)
            else:
                self.done += 1
                last, before = time.monotonic(), last
                self.longest_s = max(self.longest_s, last - before)
            stop.wait(self.every_s)
        self.longest_s = max(self.longest_s, time.monotonic() - last - self.every_s)

    def to_json(self) -> dict[str, object]:
        return {
            "work": self.name,
            "done": self.done,
            "failures": self.failures[:5],
            "failed": len(self.failures),
            "longest_s": round(self.longest_s, 1),
        }


@contextmanager
def run_traffic(beats: dict[str, tuple[float, Beat]]) -> Iterator[list[TrafficProbe]]:
    """Repeat all ``beats`` (by name: seconds between, and what to do) while the block runs; yields their probes."""
    stop = threading.Event()
    pulses = [TrafficProbe(name, every_s) for name, (every_s, _) in beats.items()]
    threads = [
        threading.Thread(target=pulse.run, args=(beats[pulse.name][1], stop), name=pulse.name, daemon=True)
        for pulse in pulses
    ]
    for thread in threads:
        thread.start()
    try:
        yield pulses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def open_record_beat(fleet: Fleet) -> Iterator[Beat]:
    """Yield a beat that produces one record with acks=all, to a partition of another broker each time."""
    from kafka import KafkaAdminClient, KafkaProducer
    from kafka.errors import TopicAlreadyExistsError

    brokers = fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    with ExitStack() as stack:
        admin = KafkaAdminClient(bootstrap_servers=brokers, **kafka_options(Principal.RECOVERY))
        stack.callback(admin.close)
        spec = {"num_partitions": len(brokers), "replication_factor": min(3, len(brokers))}
        try:
            admin.create_topics({TOPIC: {**spec, "configs": {"retention.ms": "3600000"}}})
        except TopicAlreadyExistsError:
            log.info("%s is there already", TOPIC)
        producer = KafkaProducer(bootstrap_servers=brokers, acks="all", **kafka_options(Principal.RECOVERY))
        stack.callback(_close_producer, producer)
        numbers = count()

        def produce_record() -> None:
            number = next(numbers)
            producer.send(TOPIC, str(number).encode(), partition=number % len(brokers)).get(timeout=ACK_S)

        yield produce_record


def _close_producer(producer: KafkaProducer) -> None:
    from kafka.errors import KafkaError

    try:
        producer.close(timeout=5)
    except KafkaError as error:
        log.warning("the last records weren't acknowledged: %s", error)  # the pulse has counted them

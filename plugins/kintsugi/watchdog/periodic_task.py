"""A loop of the watchdog."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kintsugi.core.errors import KintsugiError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PeriodicTask:
    """A loop: ``work`` runs every ``every_s`` seconds; an error is logged when it changes."""

    name: str
    every_s: float
    work: Callable[[], object]
    last_s: float = field(default_factory=time.monotonic)
    _complaint: str = ""

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.run_once()
            stop.wait(self.every_s)

    def run_once(self) -> bool:
        """One pass; raises nothing. Returns whether it succeeded."""
        complaint = ""
        try:
            self.work()
        except Exception as error:
            complaint = str(error) or repr(error)
            if complaint != self._complaint:
                expected = isinstance(error, KintsugiError)
                log.warning("%s: %s", self.name, complaint, exc_info=None if expected else error)
        if self._complaint and not complaint:
            log.info("%s: works again", self.name)
        self._complaint = complaint
        self.last_s = time.monotonic()
        return not complaint

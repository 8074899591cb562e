"""Progress on the screen: one line a step, with the seconds it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """Prints steps as they end and remembers them: ``steps`` is a list of (what, seconds). Thread-safe.

    ``console``: rich's, on stdout if None is given.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(soft_wrap=True)
        self.steps: list[tuple[str, float]] = []
        self._lock = threading.Lock()
        self._started = time.monotonic()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Time the block and print it when it ends, with a cross if it raised."""
        start = time.monotonic()
        mark = "[red]✗[/red]"
        try:
            yield
            mark = "[green]✓[/green]"
        finally:
            seconds = time.monotonic() - start
            with self._lock:
                self.steps.append((what, round(seconds, 1)))
            self.say(f"{mark} {what} [dim]{seconds:.1f} s[/dim]")

    @property
    def elapsed(self) -> float:
        """Seconds since this progress was made."""
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """Print a line (rich's markup) after the seconds since the start."""
        with self._lock:
            self.console.print(f"[dim]{self.elapsed:6.1f}[/dim]  {text}", highlight=False)

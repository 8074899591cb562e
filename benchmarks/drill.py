"""What drills share: a report that grows, and the way back for a person if one ends early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import incidents_since, pages_since, write_report
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.settings import Settings
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.summary import format_summary

if TYPE_CHECKING:
    from rich.console import Console


@dataclass
class Drill(ABC):
    """One drill on a running fleet. ``document``: its report so far, which is written to ``path`` at each note."""

    settings: Settings
    console: Console
    path: Path
    document: dict[str, Any] = field(default_factory=dict, init=False)

    @abstractmethod
    def describe_way_back(self) -> str:
        """Return how a person brings the installation back."""

    def note(self, text: str, **values: Any) -> None:
        """Print a line, and add ``values`` to the report."""
        self.document |= values
        write_report(self.path, self.document)
        self.console.print(text, markup=False)

    def note_account(self, context: Context, account: Mapping[str, Any], since: datetime) -> None:
        """Print the account of the trades; report it, and the incidents and pages since then (UTC)."""
        self.note(
            f"{format_summary(account)}; see {self.path}",
            account=account,
            incidents=[one.id for one in incidents_since(context, since)],
            pages=pages_since(context, since),
        )

    @contextmanager
    def telling_the_way_back(self) -> Iterator[None]:
        """Add to any error, and to Ctrl-C, how a person brings the installation back."""
        try:
            yield
        except (KintsugiError, OSError, KeyboardInterrupt) as error:
            why = str(error) or type(error).__name__
            raise StepFailed(f"the drill ended before its end: {why}\n{self.describe_way_back()}") from error

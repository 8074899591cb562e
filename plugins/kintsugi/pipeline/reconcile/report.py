"""The account of all trades: what an on-call engineer reads, and what programs test."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

NAMED = 100  # identities that an account lists by name at most


@dataclass(slots=True)
class ReconciliationReport:
    """What became of the trades.

    Counts are rows of files, but ``in_kafka`` and ``stored`` are distinct identities.
    ``read`` = ``accepted`` + rejected; ``duplicates``: accepted rows whose identity another row has.
    ``produced``: messages that the ledger says were acknowledged. ``in_kafka``: None when it wasn't asked
    for. ``lost``, ``extra`` and ``altered`` name up to 100 identities; their counts are exact.
    ``lost_before_kafka``: how many of the lost aren't on the topic, where it still goes back to its beginning.
    ``in_flight``: not stored, but on its way: its file isn't wholly ingested, or its message lies before the
    stream. ``withdrawn``: stored, and in the content that a file had once, but in none that S3 has now.
    ``expired``: not stored, and older than Cassandra keeps trades.
    ``derived``: rows of derived tables that were compared with what follows from the stored trades, by table, if asked
    for; ``wrong_derived``: those that differ, by table (``trade``: the mark of a cancel), up to 100 a table by name;
    ``derived_in_flight``: those that are still being written; ``repaired``: how many of the wrong ones were written
    anew.
    ``stream_losses``: what Kafka deleted before it was stored, by partition and offsets, and what came of it.
    ``unread``: files that the ingest hasn't read to their end (waiting, being read, failed, damaged), up to 100 with
    their state; ``unread_count`` is exact. ``unreadable``: files that could not be read for it, with the reason.
    """

    files: int = 0
    read: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    produced: int = 0
    in_kafka: int | None = None
    stored: int = 0
    lost_count: int = 0
    extra_count: int = 0
    altered_count: int = 0
    doubled: int = 0
    lost_before_kafka: int | None = None
    in_flight: int = 0
    withdrawn_count: int = 0
    expired: int = 0
    derived: dict[str, int] = field(default_factory=dict)
    wrong_derived: dict[str, int] = field(default_factory=dict)
    wrong_derived_named: dict[str, list[str]] = field(default_factory=dict)
    derived_in_flight: int = 0
    repaired: int = 0
    lost: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    stream_losses: list[str] = field(default_factory=list)
    unread_count: int = 0
    unread: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Every file was read; every accepted trade is stored once, as it was delivered; all else follows."""
        return self.balanced and not (
            self.in_flight or self.derived_in_flight or self.unread_count or self.unreadable
        )

    @property
    def balanced(self) -> bool:
        """Nothing is wrong; what is on its way may still arrive."""
        return not (
            self.lost_count
            or self.extra_count
            or self.altered_count
            or self.doubled
            or self.wrong_derived_count
        )

    @property
    def wrong_derived_count(self) -> int:
        """Rows of all derived tables that differ from what follows from the stored trades."""
        return sum(self.wrong_derived.values())

    @property
    def wrong_windows(self) -> int:
        """Minutes of a symbol's flow that aren't the sum of their trades."""
        return self.wrong_derived.get("flow_window", 0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, fit for ``json.dumps``.

        ``rejected``, ``lost``, ``extra``, ``altered``, ``withdrawn``, ``unread`` are numbers here; beside them
        ``rejected_by_reason``, the named identities as ``lost_trades``, ``extra_trades``, ``altered_trades``,
        ``withdrawn_trades``, the files as ``unread_files``; the numbers ``wrong_windows`` and ``wrong_derived_count``;
        and ``complete``.
        """
        plain = asdict(self)
        for name in ("lost", "extra", "altered", "withdrawn"):
            plain[f"{name}_trades"] = plain[name]
            plain[name] = plain.pop(f"{name}_count")
        plain["unread_files"] = plain["unread"]
        plain["unread"] = plain.pop("unread_count")
        plain["wrong_windows"], plain["wrong_derived_count"] = self.wrong_windows, self.wrong_derived_count
        plain["rejected_by_reason"] = self.rejected
        plain["rejected"] = sum(self.rejected.values())
        return {**plain, "complete": self.complete}

    def __str__(self) -> str:
        return (
            f"{self.files} files: read {self.read}, accepted {self.accepted}, "
            f"rejected {sum(self.rejected.values())}, duplicates {self.duplicates}, "
            f"produced {self.produced}, stored {self.stored}; "
            f"lost {self.lost_count}, extra {self.extra_count}, altered {self.altered_count}, "
            f"doubled {self.doubled}, in flight {self.in_flight}, withdrawn {self.withdrawn_count}, "
            f"expired {self.expired}; "
            f"derived rows {sum(self.derived.values())}, of which wrong {self.wrong_derived_count}, "
            f"in flight {self.derived_in_flight}, repaired {self.repaired}; files not read: {self.unread_count}"
        )

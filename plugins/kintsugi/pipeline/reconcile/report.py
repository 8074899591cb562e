"""The reconciliation report: the counts that an on-call engineer reads and that programs check."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

NAMED = 100  # identities that a report lists by name at most


@dataclass(slots=True)
class ReconciliationReport:
    """The result of a reconciliation.

    Counts are rows of files, except ``in_kafka`` and ``stored``, which are distinct identities. Lists of names have up
    to 100 entries; counts are exact.

    - ``read`` = ``accepted`` + rejected; ``duplicates``: accepted rows whose identity another row has.
    - ``produced``: messages that Kafka acknowledged, by the ledger. ``in_kafka``: None if the topic wasn't read.
    - ``lost_before_kafka``: how many lost trades aren't on the topic; None if the topic no longer has its beginning.
    - ``in_flight``: not stored yet: the file isn't ingested completely, or the message waits for the stream.
    - ``withdrawn``: stored, and in a former content of a file, but in no file that S3 has now.
    - ``expired``: not stored, and older than Cassandra keeps trades.
    - ``derived``: by table, rows of derived tables that were compared with what follows from the stored trades.
      ``wrong_derived``: by table, rows that differ (``trade``: the mark of a cancel). ``derived_in_flight``: rows that
      are still being written. ``repaired``: how many wrong rows were corrected.
    - ``stream_losses``: messages that Kafka deleted before they were stored, and the outcome.
    - ``unread``: files that the ingest hasn't read to their end (waiting, being read, failed, damaged), with their
      state. ``unreadable``: files that the reconciliation couldn't read, with the reason.
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
        """Whether every file was read, every accepted trade is stored once, and no table is wrong."""
        return self.balanced and not (
            self.in_flight or self.derived_in_flight or self.unread_count or self.unreadable
        )

    @property
    def balanced(self) -> bool:
        """Whether no fault was found; trades may still be on their way."""
        return not (
            self.lost_count
            or self.extra_count
            or self.altered_count
            or self.doubled
            or self.wrong_derived_count
        )

    @property
    def wrong_derived_count(self) -> int:
        """The number of rows of all derived tables that differ from what follows from the stored trades."""
        return sum(self.wrong_derived.values())

    @property
    def wrong_windows(self) -> int:
        """The number of flow windows that aren't the sums of their trades."""
        return self.wrong_derived.get("flow_window", 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``json.dumps``.

        ``rejected``, ``lost``, ``extra``, ``altered``, ``withdrawn`` and ``unread`` are numbers here. The names are in
        ``rejected_by_reason``, ``lost_trades``, ``extra_trades``, ``altered_trades``, ``withdrawn_trades`` and
        ``unread_files``. Added are ``wrong_windows``, ``wrong_derived_count`` and ``complete``.
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

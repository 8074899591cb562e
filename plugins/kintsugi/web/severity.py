"""How grave something is. Each level has a word and a sign on the page, so that colour is never alone."""

from enum import StrEnum


class Severity(StrEnum):
    """From all is well to a person is needed; ``UNKNOWN`` when nobody can tell."""

    WELL = "well"
    NOTE = "note"  # well, but something should be known
    BUSY = "busy"  # being repaired, nothing to do
    BAD = "bad"  # a person is needed
    UNKNOWN = "unknown"


WORDS = {
    Severity.WELL: "Well",
    Severity.NOTE: "Well, but",
    Severity.BUSY: "Healing",
    Severity.BAD: "Needs you",
    Severity.UNKNOWN: "Unknown",
}

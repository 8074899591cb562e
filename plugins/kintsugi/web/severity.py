"""How grave something is. Each level has a word and a sign on the page, so that colour is never alone."""

from enum import StrEnum


class Level(StrEnum):
    """From all is well to a person is needed; ``UNKNOWN`` when nobody can tell."""

    WELL = "well"
    NOTE = "note"  # well, but something should be known
    BUSY = "busy"  # being repaired, nothing to do
    BAD = "bad"  # a person is needed
    UNKNOWN = "unknown"


WORDS = {
    Level.WELL: "Well",
    Level.NOTE: "Well, but",
    Level.BUSY: "Healing",
    Level.BAD: "Needs you",
    Level.UNKNOWN: "Unknown",
}

"""Severity levels. Each level has a word and a sign on the page, so colour is never the only signal."""

from enum import StrEnum


class Level(StrEnum):
    """From "all is well" to "a person is needed"; ``UNKNOWN`` when the state is not known."""

    WELL = "well"
    NOTE = "note"  # well, but with a note
    BUSY = "busy"  # being repaired, nothing to do
    BAD = "bad"  # a person is needed
    UNKNOWN = "unknown"


WORDS = {
    Level.WELL: "Well",
    Level.NOTE: "Well, but",
    Level.BUSY: "Recovering",
    Level.BAD: "Action needed",
    Level.UNKNOWN: "Unknown",
}

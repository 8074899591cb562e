"""The header of a trade file: which columns there are, and whether they stand where the rows are read from."""

from __future__ import annotations

import csv
from collections.abc import Collection

from kintsugi.pipeline.row_parser import HEAD_COLUMNS, USED_COLUMNS

NEEDED = HEAD_COLUMNS[:USED_COLUMNS]


def is_header(line: str) -> bool:
    """Whether this line names columns instead of holding a trade."""
    names = line.lower().replace(" ", "_")
    return names[:40].lstrip('\ufeff"_\t').startswith(HEAD_COLUMNS[0]) or all(
        name in names for name in HEAD_COLUMNS[:3]
    )


def header_names(line: str) -> list[str]:
    """The names in a header, as they compare: lower case, ``_`` for spaces, without quotes."""
    return ["_".join(name.strip(' "\t').lower().split()) for name in line.removeprefix("\ufeff").split(",")]


def header_fault(line: str) -> str | None:
    """What is wrong with this header, as a sentence; None if the used columns are there, in their order.

    A renamed, missing or moved column is a fault: columns are told apart by place, and to guess would fill
    tables with wrong numbers in silence. An unknown column beside the known ones is none, and the columns from
    number_of_exchanges on may be missing.
    """
    names = header_names(line)
    if separator := next((mark for mark in ";\t|" if len(names) == 1 and mark in line), None):
        return f"its columns are separated by {separator!r}, not by commas"
    missing = [name for name in NEEDED if name not in names]
    if missing:
        index = HEAD_COLUMNS.index(missing[0])
        found = names[index] if index < len(names) else "nothing"
        return f"column {index} must be {missing[0]}, but the header says {found[:40]!r}"
    known = [name for name in names if name in HEAD_COLUMNS]
    for index, (name, expected) in enumerate(zip(known, HEAD_COLUMNS, strict=False)):
        if name != expected:
            return (
                f"column {index} must be {expected}, but the header says {name!r}: moved or doubled columns"
            )
    return None


def unknown_columns(line: str) -> dict[int, str]:
    """The columns of a faultless header that aren't known and would be taken for known ones: name by place.

    What comes after number_of_exchanges isn't read; without that column, nothing after the used ones may be.
    """
    names = header_names(line)
    end = names.index(HEAD_COLUMNS[-1]) if HEAD_COLUMNS[-1] in names else len(names)
    return {
        index: name
        for index, name in enumerate(names[:end])
        if name and name not in HEAD_COLUMNS and "{" not in name
    }


def without(line: str, columns: Collection[int]) -> str:
    """The line without the columns at these places; a line that can't be split stays as it is."""
    try:
        cells = next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except (csv.Error, StopIteration):
        return line
    kept = [cell for index, cell in enumerate(cells) if index not in columns]
    return ",".join(
        f'"{cell.replace(chr(34), chr(34) * 2)}"' if "," in cell or '"' in cell else cell for cell in kept
    )

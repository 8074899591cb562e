"""The header of a trade file: which columns it has, and whether they are in the order in which rows are parsed."""

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
    """Return the names in a header, in lower case, with ``_`` for spaces, and without quotes."""
    return ["_".join(name.strip(' "\t').lower().split()) for name in line.removeprefix("\ufeff").split(",")]


def header_fault(line: str) -> str | None:
    """Say what is wrong with this header; None if it has all used columns, in their order.

    A renamed, missing or moved column is a fault: columns are identified by position, and a guess could fill the tables
    with wrong numbers without an error. An additional unknown column is no fault. The columns from number_of_exchanges
    on may be missing.
    """
    names = header_names(line)
    if separator := next((mark for mark in ";\t|" if len(names) == 1 and mark in line), None):
        return f"its columns are separated by {separator!r}, not by commas"
    missing = [name for name in NEEDED if name not in names]
    if missing:
        index = HEAD_COLUMNS.index(missing[0])
        actual = names[index] if index < len(names) else "nothing"
        return f"column {index} must be {missing[0]}, but the header says {actual[:40]!r}"
    known_names = [name for name in names if name in HEAD_COLUMNS]
    for index, (name, expected) in enumerate(zip(known_names, HEAD_COLUMNS, strict=False)):
        if name != expected:
            return f"column {index} must be {expected}, but the header says {name!r}: a column was moved or repeated"
    return None


def unknown_columns(line: str) -> dict[int, str]:
    """Return the unknown columns of a faultless header that must be left out of the rows: name by position.

    Columns after number_of_exchanges aren't read, so they stay. Without that column, all unknown columns are returned.
    """
    names = header_names(line)
    end = names.index(HEAD_COLUMNS[-1]) if HEAD_COLUMNS[-1] in names else len(names)
    return {
        index: name
        for index, name in enumerate(names[:end])
        if name and name not in HEAD_COLUMNS and "{" not in name
    }


def drop_columns(line: str, columns: Collection[int]) -> str:
    """Remove the columns at these positions from the line; a line that can't be split isn't changed."""
    try:
        cells = next(csv.reader([line], strict=True)) if '"' in line else line.split(",")
    except (csv.Error, StopIteration):
        return line
    return ",".join(
        f'"{cell.replace(chr(34), chr(34) * 2)}"' if "," in cell or '"' in cell else cell
        for index, cell in enumerate(cells)
        if index not in columns
    )

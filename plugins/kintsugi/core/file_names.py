"""The kind of an object in the bucket, by its name: a trade or EOD file, its companion, or another vendor product.

Cboe DataShop names a file ``<product>_<day or month>[_part].<csv, zip, gz>``. Sensor, ingest,
reconciliation, replay and intake watch use this one rule.
"""

from __future__ import annotations

import re
from enum import StrEnum

TRADES_NAME = "UnderlyingOptionsTradesCalcs_"
EOD_NAME = "UnderlyingOptionsEODCalcs_"
# A file has one of these endings, or none. Its format is found by its content and not by its name.
ENDINGS = frozenset({"csv", "gz", "zip", "txt"})

_PRODUCT = re.compile(r"(?:Underlying|Option|Cboe|LiveVol|OpenClose)\w*?_\d{4}-\d{2}", re.IGNORECASE)
_PERIOD = re.compile(r"(\d{4}-\d{2}(?:-\d{2})?)(?=$|[._])")


class ObjectKind(StrEnum):
    """The kind of an object."""

    TRADES = "trades"
    EOD = "eod"
    COMPANION = "companion"  # a checksum, or a part of a running upload, beside a trade or EOD file
    OTHER_PRODUCT = "other_product"  # of the vendor; the pipeline doesn't use it
    FOREIGN = "foreign"


def kind_of(key: str) -> ObjectKind:
    """Return the kind of the object with this key, by the part of the key after its last slash."""
    name = key.rpartition("/")[2]
    for kind, begin in ((ObjectKind.TRADES, TRADES_NAME), (ObjectKind.EOD, EOD_NAME)):
        if begin in name:
            return kind if name.startswith(begin) and _has_ending(name) else ObjectKind.COMPANION
    return ObjectKind.OTHER_PRODUCT if _PRODUCT.match(name) else ObjectKind.FOREIGN


def period_of(key: str) -> str:
    """Return the day (``2024-10-08``) or month (``2024-10``) in the name of a file; empty if it has none."""
    name = key.rpartition("/")[2]
    match = _PERIOD.match(name.removeprefix(TRADES_NAME).removeprefix(EOD_NAME))
    return match.group(1) if match else ""


def _has_ending(name: str) -> bool:
    stem, dot, ending = name.rpartition(".")
    return not dot or (ending.lower() in ENDINGS and not stem.endswith("."))

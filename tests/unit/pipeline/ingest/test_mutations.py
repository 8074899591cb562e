"""Delivered files with bytes flipped, cut and spliced, from a seed: nothing but InputError leaves the reader.

``KINTSUGI_MUTATIONS=100000`` reads more of them.
"""

from __future__ import annotations

import os
import zipfile
from random import Random

import pytest

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest import validation
from kintsugi.pipeline.ingest.byte_sources import BytesSource
from kintsugi.pipeline.ingest.validation import FileReport
from tests.unit.pipeline.ingest.variants import BODY, EOD, EOD_BODY, TRADES, gz, zipped

SEED = 20261128
COUNT = int(os.environ.get("KINTSUGI_MUTATIONS", "10000"))
PACKS = {
    "csv": lambda name, body: body,
    "gz": lambda name, body: gz(body),
    "gz-members": lambda name, body: gz(body[:1500]) + gz(body[1500:]),
    "zip": lambda name, body: zipped({name: body}),
    "zip-members": lambda name, body: zipped({f"__MACOSX/._{name}": b"\0", name: body, f"2{name}": body}),
    "zip-stored": lambda name, body: zipped({name: body}, zipfile.ZIP_STORED),
    "zip-bzip2": lambda name, body: zipped({name: body}, zipfile.ZIP_BZIP2),
    "zip-lzma": lambda name, body: zipped({name: body}, zipfile.ZIP_LZMA),
}
FILES = [
    (name, pack(name, body))  # type: ignore[no-untyped-call]
    for name, body in ((TRADES, BODY), (EOD, EOD_BODY))
    for pack in PACKS.values()
]


def flipped(body: bytes, other: bytes, rng: Random) -> bytes:
    data = bytearray(body)
    for _ in range(rng.choice([1, 1, 2, 8, 50])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwritten(body: bytes, other: bytes, rng: Random) -> bytes:
    at, length = rng.randrange(len(body)), rng.randint(1, 40)
    return body[:at] + rng.randbytes(length) + body[at + length :]


def cut(body: bytes, other: bytes, rng: Random) -> bytes:
    return body[: rng.randrange(len(body))]


def shortened(body: bytes, other: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(body))
    return body[:at] + body[at + rng.randint(1, 20) :]


def spliced(body: bytes, other: bytes, rng: Random) -> bytes:
    return body[: rng.randrange(len(body))] + other[rng.randrange(len(other)) :]


def filled(body: bytes, other: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(body))
    filling = rng.choice(
        [b"\0", b"\n", b"\r", b",", b'"', b"\xff", b"\x1f\x8b", b"PK\x03\x04"]
    ) * rng.randint(1, 300)
    return body[:at] + filling + body[at:]


def at_the_end(body: bytes, other: bytes, rng: Random) -> bytes:
    """Headers of archives, where most of their structure is."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 3)):
        data[-rng.randint(1, min(len(data), 160))] = rng.randrange(256)
    return bytes(data)


MUTATIONS = (flipped, overwritten, cut, shortened, spliced, filled, at_the_end)
PARTS = 10


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_becomes_of_a_file_it_is_accounted_for(part: int) -> None:
    taken = refused = rejected = 0
    for number in range(part, COUNT, PARTS):
        rng = Random(f"{SEED}/{number}")
        name, body = FILES[number // PARTS % len(FILES)]
        mutate = rng.choice(MUTATIONS)
        mutated = mutate(body, rng.choice(FILES)[1], rng)
        report = FileReport(name)
        try:
            validation._fill_report(BytesSource(mutated, name), report)
        except InputError:
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"mutation {number} ({mutate.__name__} of {name})") from error
        assert report.read == report.accepted + sum(report.rejected.values())
        taken += 1
        rejected += bool(report.rejected)
    assert min(taken, refused, rejected) > COUNT // PARTS // 20, "the mutations must reach all ends"

"""Trade files as they should never arrive, by name, from a seed: for tests, and for a disk (``python -m``)."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

Damage = Callable[[bytes, Random], bytes]


def corpus(body: bytes, seed: int, rounds: int) -> Iterator[tuple[str, bytes]]:
    """Each way to damage the trade file ``body``, ``rounds`` times; the same seed gives the same bytes."""
    for number in range(rounds):
        rng = Random(f"{seed}/{number}")
        for name, damage in DAMAGES.items():
            for wrap, pack in PACKS.items():
                yield f"{name}-{number}-{wrap}", pack(damage(body, rng))
                yield f"{wrap}-then-{name}-{number}", damage(pack(body), rng)


def zipped(*bodies: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, body in enumerate(bodies):
            archive.writestr(zipfile.ZipInfo(f"{number}.csv"), body, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _flipped(body: bytes, rng: Random) -> bytes:
    data = bytearray(body)
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _inserted(filling: Callable[[Random], bytes]) -> Damage:
    def damage(body: bytes, rng: Random) -> bytes:
        at = rng.randrange(len(body) + 1)
        return body[:at] + filling(rng) + body[at:]

    return damage


def _cut(body: bytes, rng: Random) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _swapped(body: bytes, rng: Random) -> bytes:
    a, b = sorted(rng.randrange(len(body) + 1) for _ in range(2))
    return body[b:] + body[a:b] + body[:a]


def _encoded(encoding: str) -> Damage:
    return lambda body, _: body.decode("latin-1").encode(encoding, "replace")


DAMAGES: dict[str, Damage] = {
    "flipped": _flipped,
    "cut": _cut,
    "swapped": _swapped,
    "doubled": lambda body, _: body + body,
    "nuls": _inserted(lambda rng: bytes(rng.randint(1, 300))),
    "noise": _inserted(lambda rng: rng.randbytes(rng.randint(1, 300))),
    "quotes": _inserted(lambda rng: b'"' * rng.randint(1, 3)),
    "commas": _inserted(lambda rng: b"," * rng.randint(1, 60)),
    "line-ends": _inserted(lambda rng: rng.choice([b"\r", b"\n\r", b"\r\r\n", b"\n" * 50, b"\x0b", b"\x85"])),
    "huge-field": _inserted(lambda rng: b"9" * rng.choice([5_000, 70_000, 600_000])),
    "utf-16": _encoded("utf-16"),
    "utf-16-le": _encoded("utf-16-le"),
    "utf-7": _encoded("utf-7"),
    "ebcdic": _encoded("cp500"),
    "header-only": lambda body, _: body.split(b"\n")[0],
    "empty": lambda _, __: b"",
}
PACKS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda body: body,
    "gz": lambda body: gzip.compress(body, mtime=0),
    "gz-gz": lambda body: gzip.compress(gzip.compress(body, mtime=0), mtime=0),
    "gz-members": lambda body: gzip.compress(body[:999], mtime=0) + gzip.compress(body[999:], mtime=0),
    "zip": zipped,
    "zip-members": lambda body: zipped(body, b"", body),
}


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    for name, data in corpus(source.read_bytes(), seed=1, rounds=3):
        (target / f"UnderlyingOptionsTradesCalcs_{name}.csv").write_bytes(data)

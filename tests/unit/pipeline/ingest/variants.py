"""Forms in which a delivered file may come, and parts of them; for tests."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

from kintsugi.pipeline.row_parser import HEAD_COLUMNS
from kintsugi.sampledata.option_chain import EOD_HEADER
from tests.unit.pipeline.test_row_parser import changed

TRADES = "UnderlyingOptionsTradesCalcs_2018-01-08.csv"
EOD = "UnderlyingOptionsEODCalcs_2018-01-08.csv"
HEADER = ",".join(HEAD_COLUMNS).encode()
ROWS = [changed(2, str(number)).encode() for number in range(1, 41)]
EOD_ROW = (
    "AAPL,2018-01-08,AAPL,2018-01-19,{},C,1.5,1.6,1.4,1.5,10,5,1.4,5,1.6,174.1,174.2,0.0,174.15,0.2568,0.4100,"
    "0.01,-0.1,0.1,0.1,5,1.4,5,1.6,174.1,174.2,1.5,3640,"
)
EOD_ROWS = [EOD_ROW.format(100 + number).encode() for number in range(40)]


def csv(rows: list[bytes], end: bytes = b"\n", header: bytes = HEADER) -> bytes:
    """A whole file."""
    return b"".join(line + end for line in [header, *rows])


BODY = csv(ROWS)
EOD_BODY = csv(EOD_ROWS, header=EOD_HEADER.encode())


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name), body, method)
    return out.getvalue()


def tarred(body: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(TRADES)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def patched(archive: bytes, signature: bytes, at: int, value: bytes) -> bytes:
    """A zip archive with other bytes ``at`` this place of each of its headers with ``signature``."""
    data = bytearray(archive)
    place = data.find(signature)
    while place >= 0:
        data[place + at : place + at + len(value)] = value
        place = data.find(signature, place + 4)
    return bytes(data)


def with_method(archive: bytes, method: int) -> bytes:
    """The archive, said to be compressed by another method."""
    text = method.to_bytes(2, "little")
    return patched(patched(archive, b"PK\x01\x02", 10, text), b"PK\x03\x04", 8, text)


def encrypted(archive: bytes) -> bytes:
    """The archive, said to be encrypted."""
    return patched(patched(archive, b"PK\x01\x02", 8, b"\x01\x00"), b"PK\x03\x04", 6, b"\x01\x00")


def gz(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)

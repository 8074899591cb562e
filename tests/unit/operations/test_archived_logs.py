"""What an archived log costs who reads it: a node writes its logs, and gzip makes a thousand bytes out of one."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from kintsugi.installation.incident_report import IncidentFiles
from kintsugi.operations.archived_logs import CUT, INFLATED_BYTES, TAIL_BYTES, last_lines
from kintsugi.web import archive


def peak_mib(use: object) -> float:
    tracemalloc.start()
    try:
        assert callable(use)
        use()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def bomb(unit: bytes, size: int = 500 * 2**20) -> bytes:
    """A gzipped log of 500 MiB in about 500 KiB."""
    import io

    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        block = unit * (2**20 // len(unit))
        for _ in range(size // len(block)):
            file.write(block)
    return packed.getvalue()


@pytest.mark.parametrize("unit", [b"\0", b"a\n"])
def test_a_small_object_costs_little_whatever_it_becomes(
    unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bomb(unit, 64 * 2**20)
    assert len(body) < 2**18
    assert peak_mib(lambda: last_lines(body, 60)) < 8
    assert peak_mib(lambda: archive.last_lines(body)) < 8
    files = IncidentFiles.__new__(IncidentFiles)
    monkeypatch.setattr(files, "_prefix", "incidents/x/", raising=False)
    monkeypatch.setattr(files, "_keys", lambda _: ["incidents/x/logs/kafka.log.gz"])
    monkeypatch.setattr(files, "_read", lambda _: body)
    assert peak_mib(files.logs) < 8


def test_the_last_lines_are_the_logs_own_and_cut() -> None:
    log = b"".join(b"line %d\n" % number for number in range(200_000)) + b"x" * 5000
    lines = last_lines(gzip.compress(log), 3, 100)
    assert lines == ["line 199998", "line 199999", "x" * 100]
    assert last_lines(gzip.compress(b"z" * (TAIL_BYTES + 10)), 5, 10) == ["z" * 10]
    assert last_lines(gzip.compress(b""), 5) == []
    assert last_lines(b"no gzip", 5) == []


def test_a_log_that_is_larger_than_any_says_so() -> None:
    assert last_lines(bomb(b"a\n", INFLATED_BYTES + 2**20), 2)[-1] == CUT
    assert CUT not in last_lines(bomb(b"a\n", 2**20), 2)

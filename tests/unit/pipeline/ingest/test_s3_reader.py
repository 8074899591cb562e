from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.pipeline.ingest import s3_reader


class Slow(io.BytesIO):
    """A body of which each read brings a few bytes less than was asked for."""

    def read(self, amt: int | None = -1) -> bytes:
        return super().read(amt if amt is None or amt < 3 else amt - 2)


def fetcher(content: bytes, asked: list[tuple[int, int]]) -> Callable[[int, int], bytes]:
    def fetch(start: int, end: int) -> bytes:
        asked.append((start, end))
        return content[start:end]

    return fetch


@given(st.binary(max_size=200), st.integers(0, 10), st.integers(1, 60), st.integers(1, 20))
def test_the_chunks_are_the_object_from_where_it_was_read_to(
    content: bytes, at: int, piece: int, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_reader, "PIECE", max(piece, at))
        patch.setattr(s3_reader, "CHUNK", chunk)
        at = min(at, len(content))
        asked: list[tuple[int, int]] = []
        body = Slow(content)
        body.seek(at)
        found = list(s3_reader.read_chunks(body, at, len(content), fetcher(content, asked)))
    assert b"".join(found) == content[at:]
    assert all(0 < len(part) <= chunk for part in found)
    assert all(end - start <= max(piece, at) for start, end in asked)


def test_no_connection_stays_open_while_the_reader_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_reader, "PIECE", 10)
    asked: list[tuple[int, int]] = []
    content = bytes(range(35))
    body = io.BytesIO(content)
    found = s3_reader.read_chunks(body, 0, len(content), fetcher(content, asked))
    next(found)
    assert body.closed
    list(found)
    assert asked == [(10, 20), (20, 30), (30, 35)]


def test_a_small_object_needs_no_further_request() -> None:
    asked: list[tuple[int, int]] = []
    assert list(s3_reader.read_chunks(io.BytesIO(b"abc"), 0, 3, fetcher(b"abc", asked))) == [b"abc"]
    assert asked == []

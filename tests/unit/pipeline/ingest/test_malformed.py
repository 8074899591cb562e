"""Nothing crashes, and everything is accounted for: read = accepted + rejected, whatever a file holds."""

from __future__ import annotations

import base64
import json
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest.byte_sources import BytesSource
from kintsugi.pipeline.ingest.file_ingest import Chunk, split_chunks
from kintsugi.pipeline.ingest.file_reader import trade_lines
from kintsugi.pipeline.object_listing import S3Object
from kintsugi.pipeline.row_parser import HEAD_COLUMNS, Reason
from tests.unit.pipeline.ingest.fuzz_corpus import DAMAGES, PACKS, corpus
from tests.unit.pipeline.test_row_parser import changed

ROWS = 60
BODY = "\n".join([",".join(HEAD_COLUMNS), *(changed(2, str(n)) for n in range(ROWS)), ""]).encode()
SEED, ROUNDS = 20261122, 2


def taken(body: bytes, rows: int = 16) -> list[Chunk]:
    source = BytesSource(body, "k")
    return list(split_chunks(S3Object(source.name, "e", source.size), trade_lines(source), rows))


def check(found: list[Chunk]) -> Counter[str]:
    reasons: Counter[str] = Counter()
    before = 0
    for chunk in found:
        tally = chunk.tally
        assert tally.read == tally.accepted + sum(tally.rejected.values())
        assert tally.accepted == tally.produced + tally.duplicates
        assert tally.produced == len(chunk.messages)
        letters = [json.loads(letter) for letter in chunk.letters]
        assert Counter(letter["reason"] for letter in letters) == tally.rejected
        assert all(before < letter["line"] <= tally.lines_done for letter in letters)
        assert all(letter["text"] and ("raw" in letter or "raw_base64" in letter) for letter in letters)
        assert all(len(message.value) < 2000 for message in chunk.messages)
        before = tally.lines_done
        reasons.update(tally.rejected)
    return reasons


def test_the_whole_corpus_is_accounted_for() -> None:
    reasons: Counter[str] = Counter()
    refused = taken_files = 0
    for _, body in corpus(BODY, SEED, ROUNDS):
        try:
            found = taken(body)
        except InputError:
            refused += 1
            continue
        taken_files += 1
        reasons += check(found)
    assert refused + taken_files == ROUNDS * len(DAMAGES) * len(PACKS) * 2
    assert min(refused, taken_files) > 40, "the corpus must reach both ends"
    assert len(reasons) >= 8, reasons
    assert {Reason.TRUNCATED, Reason.CORRUPT, Reason.TOO_LONG, Reason.ENCODING, Reason.COLUMNS} <= set(
        reasons
    )


def test_a_file_of_nothing_but_its_header_is_done_and_empty() -> None:
    assert taken(BODY.split(b"\n")[0]) == []


@pytest.mark.parametrize("rows", [1, 7, 60, 1000])
@pytest.mark.parametrize("border", [0, 2, 31, 61])
def test_chunks_are_the_same_rows_however_they_are_cut(rows: int, border: int) -> None:
    lines = [(number, line) for number, line in enumerate(BODY.decode().splitlines(), 1)][1:]
    source = S3Object("k", "e", 1)
    (whole,) = split_chunks(source, lines, 10**6)
    found = list(split_chunks(source, lines, rows, border))
    assert [m for chunk in found for m in chunk.messages] == whole.messages
    assert len(whole.messages) == ROWS
    assert all(chunk.tally.read <= rows for chunk in found)
    assert border == 0 or border in {chunk.tally.lines_done for chunk in found}
    assert found[0].first == 2


def test_a_row_that_occurs_again_is_a_duplicate_however_it_is_spelled() -> None:
    line = changed(2, "5")
    (chunk,) = split_chunks(
        S3Object("k", "e", 1), [(2, line), (3, line.replace("110.000", "110")), (4, "x")], 100
    )
    assert (chunk.tally.read, chunk.tally.accepted, chunk.tally.duplicates, chunk.tally.produced) == (
        3,
        2,
        1,
        1,
    )
    assert chunk.tally.rejected == {"columns": 1}
    assert len(chunk.messages) == len(chunk.letters) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=80), st.integers(0, ROWS - 1)), max_size=20))
@example([0, b"\r"])  # the file ends with a lone CR
@example([b"\0\0", b" \t", b"\x1a", 1])
def test_any_bytes_between_good_rows_are_accounted_for_line_by_line(parts: list[bytes | int]) -> None:
    rows = BODY.split(b"\n")
    delivered = [
        rows[part + 1] if isinstance(part, int) else part.replace(b"\n", b"").replace(b"\r", b"")
        for part in parts
    ]
    found = taken(b"\n".join([rows[0], *delivered]))
    check(found)
    filled = [line for line in delivered if not _blank(line) and not _header(line)]
    assert sum(chunk.tally.read for chunk in found) == len(filled)
    good = sum(isinstance(part, int) for part in parts)
    assert sum(chunk.tally.accepted for chunk in found) >= good
    for letter in (json.loads(raw) for chunk in found for raw in chunk.letters):
        raw = base64.b64decode(letter["raw_base64"]) if "raw_base64" in letter else letter["raw"].encode()
        assert delivered[letter["line"] - 2] == raw


def _blank(line: bytes) -> bool:
    return not line.strip(b" \t\0\x1a")


def _header(line: bytes) -> bool:
    return line.lower().startswith(b"underlying_symbol")

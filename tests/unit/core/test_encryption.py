"""Encryption of backups: what was written is read again, and every other stream is refused for its reason."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.encryption import (
    CHUNK,
    BackupAltered,
    BackupCutShort,
    BackupRefused,
    DecryptingReader,
    EncryptingWriter,
    WrongBackupKey,
    key_id,
)

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
NAME = "20261129T040012.345Z"
HEADER, SEALED = 56, CHUNK + 16
PLAIN = bytes(range(256)) * (3 * CHUNK // 256) + b"the last chunk is shorter"


def encrypt(plain: bytes, *, key: bytes = KEY, name: str = NAME, step: int = 50_000) -> bytes:
    target = io.BytesIO()
    writer = EncryptingWriter(target, key, name)
    for start in range(0, len(plain), step):
        writer.write(plain[start : start + step])
    writer.finish()
    assert writer.size == len(target.getvalue())
    return target.getvalue()


def decrypt(sealed: bytes, *, key: bytes = KEY, name: str = NAME) -> bytes:
    return DecryptingReader(io.BytesIO(sealed), key, name).read()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
def test_what_was_written_is_read(size: int) -> None:
    plain = (PLAIN * 2)[:size]
    assert decrypt(encrypt(plain)) == plain


@given(st.binary(max_size=3000), st.integers(1, 500))
def test_it_does_not_matter_in_which_pieces_it_is_written_and_read(plain: bytes, step: int) -> None:
    reader = DecryptingReader(io.BytesIO(encrypt(plain, step=step)), KEY, NAME)
    assert b"".join(iter(lambda: reader.read(step), b"")) == plain


def test_the_same_text_gives_another_stream_each_time() -> None:
    first, second = encrypt(PLAIN), encrypt(PLAIN)
    assert first[HEADER : HEADER + SEALED] != second[HEADER : HEADER + SEALED]
    assert PLAIN[:64] not in first


def flip_bit(at: int) -> Callable[[bytes], bytes]:
    return lambda sealed: sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]


def swap_chunks(sealed: bytes) -> bytes:
    one, two = sealed[HEADER : HEADER + SEALED], sealed[HEADER + SEALED : HEADER + 2 * SEALED]
    return sealed[:HEADER] + two + one + sealed[HEADER + 2 * SEALED :]


def drop_first_chunk(sealed: bytes) -> bytes:
    return sealed[:HEADER] + sealed[HEADER + SEALED :]


def take_chunk_of_another(sealed: bytes) -> bytes:
    return sealed[:HEADER] + encrypt(PLAIN)[HEADER : HEADER + SEALED] + sealed[HEADER + SEALED :]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (flip_bit(0), BackupAltered),
        (flip_bit(20), WrongBackupKey),  # the name of the key
        (flip_bit(HEADER - 1), BackupAltered),  # the salt
        (flip_bit(HEADER), BackupAltered),
        (flip_bit(HEADER + SEALED - 1), BackupAltered),  # a tag
        (flip_bit(HEADER + 2 * SEALED + 5), BackupAltered),
        (lambda sealed: flip_bit(len(sealed) - 1)(sealed), BackupAltered),
        (swap_chunks, BackupAltered),
        (drop_first_chunk, BackupAltered),
        (take_chunk_of_another, BackupAltered),
        (lambda sealed: sealed + sealed[-20:], BackupAltered),
        (lambda sealed: sealed + sealed[-SEALED:], BackupAltered),
        (lambda sealed: sealed[:30], BackupCutShort),
        (lambda sealed: sealed[:HEADER], BackupCutShort),
        (lambda sealed: sealed[: HEADER + SEALED], BackupCutShort),  # exactly one chunk
        (lambda sealed: sealed[: HEADER + 3 * SEALED], BackupCutShort),  # all but the last
        (lambda sealed: sealed[: HEADER + SEALED + 1000], BackupCutShort),
        (lambda sealed: sealed[:-1], BackupCutShort),
        (lambda _: b"", BackupCutShort),
        (lambda _: b"a text that is no backup at all, however long it may be", BackupAltered),
    ],
)  # fmt: skip
def test_another_stream_is_refused_for_its_reason(
    change: Callable[[bytes], bytes], error: type[BackupRefused]
) -> None:
    with pytest.raises(BackupRefused) as refused:
        decrypt(change(encrypt(PLAIN)))
    assert isinstance(refused.value, error)


def test_another_key_and_another_name_are_refused() -> None:
    with pytest.raises(WrongBackupKey, match=key_id(OTHER_KEY)):
        decrypt(encrypt(PLAIN), key=OTHER_KEY)
    with pytest.raises(BackupAltered):
        decrypt(encrypt(PLAIN), name="20261130T040012.345Z")


def test_nothing_is_returned_of_a_chunk_that_is_not_authentic() -> None:
    reader = DecryptingReader(io.BytesIO(flip_bit(HEADER + SEALED + 9)(encrypt(PLAIN))), KEY, NAME)
    assert reader.read(CHUNK) == PLAIN[:CHUNK]
    with pytest.raises(BackupAltered):
        reader.read(1)


def test_a_writer_that_is_not_finished_leaves_a_stream_that_is_cut_short() -> None:
    target = io.BytesIO()
    EncryptingWriter(target, KEY, NAME).write(PLAIN)
    with pytest.raises(BackupCutShort):
        decrypt(target.getvalue())

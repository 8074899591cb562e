"""Encryption of a backup: a stream of any length, read and written in chunks, with a key from a file.

The STREAM construction (V. T. Hoang, R. Reyhanitabar, P. Rogaway, D. Vizár, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", 2015), in the form that age (age-encryption.org/v1) gave it, with AES-256-GCM:

1. Each stream has a key of its own: HKDF-SHA256 of the user's key and of 32 random bytes in the stream's header. So a
   counter can be the nonce: no nonce is ever used twice with one key.
2. The plain text is cut into chunks of CHUNK bytes. The last one is filled up by 0x80 and zeros (ISO/IEC 7816-4). So
   all chunks have one length, and a stream that is cut within a chunk is told apart from one that is altered.
3. The nonce of a chunk is its number in 11 bytes, and one byte that says whether it is the last. So a chunk at another
   place, a chunk too many and a stream without its end are refused.
4. The header and the name of the backup are authenticated with every chunk. So one backup can't stand for another.

`DecryptingReader` never returns a byte that is not authenticated. It is complete only when it has returned b"".
"""

from __future__ import annotations

import hashlib
import io
import secrets
from typing import TYPE_CHECKING, BinaryIO

from kintsugi.core.errors import KintsugiError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK = 64 * 2**10
_MAGIC = b"kintsugi-backup\x01"
_KEY_ID_BYTES, _SALT_BYTES, _TAG_BYTES = 8, 32, 16
_SEALED = CHUNK + _TAG_BYTES
_HEADER_BYTES = len(_MAGIC) + _KEY_ID_BYTES + _SALT_BYTES


class BackupRefused(KintsugiError):
    """A backup can't be used: nothing of it was put in place."""


class BackupAltered(BackupRefused):
    """The bytes of a backup are not those that were written."""


class BackupCutShort(BackupRefused):
    """The end of a backup is missing."""


class WrongBackupKey(BackupRefused):
    """A backup was encrypted with another key than the one in the user's key file."""


def key_id(key: bytes) -> str:
    """Return what a key of 32 bytes is known by, as 16 hexadecimal digits. It tells nothing about the key."""
    return _derive(key, b"", b"kintsugi backup key id", _KEY_ID_BYTES).hex()


class EncryptingWriter:
    """Encrypts what is written to it, and writes it to ``target``. Only `finish` makes the stream complete.

    ``key``: 32 bytes. ``name``: the name of the backup. ``size`` and ``sha256``: of what was written to ``target``.
    """

    def __init__(self, target: BinaryIO, key: bytes, name: str) -> None:
        self._target = target
        self._cipher, header = _new_header(key)
        self._associated = header + name.encode()
        self._plain = bytearray()
        self._number = 0
        self._digest = hashlib.sha256()
        self.size = 0
        self._put(header)

    def write(self, data: ReadableBuffer) -> int:
        """Encrypt ``data``; less than CHUNK bytes of it wait for more. Returns the number of bytes."""
        self._plain += data
        while len(self._plain) >= CHUNK:
            self._put_chunk(bytes(self._plain[:CHUNK]), last=False)
            del self._plain[:CHUNK]
        return memoryview(data).nbytes

    def finish(self) -> None:
        """Write the last chunk."""
        self._put_chunk(bytes(self._plain + b"\x80").ljust(CHUNK, b"\0"), last=True)
        self._plain.clear()

    @property
    def sha256(self) -> str:
        """64 hexadecimal digits."""
        return self._digest.hexdigest()

    def _put_chunk(self, plain: bytes, *, last: bool) -> None:
        self._put(self._cipher.encrypt(_nonce(self._number, last=last), plain, self._associated))
        self._number += 1

    def _put(self, data: bytes) -> None:
        self._target.write(data)
        self._digest.update(data)
        self.size += len(data)


class DecryptingReader(io.RawIOBase):
    """Reads what `EncryptingWriter` wrote to ``source``; ``key`` and ``name`` as there.

    Raises WrongBackupKey at once; BackupAltered and BackupCutShort when it comes to that place.
    """

    def __init__(self, source: BinaryIO, key: bytes, name: str) -> None:
        super().__init__()
        self._source = source
        self._name = name
        header = _read_exactly(source, _HEADER_BYTES)
        if not header.startswith(_MAGIC[: len(header)]):
            raise BackupAltered(f"{name} is not a backup of Kintsugi, or its beginning is altered")
        if len(header) < _HEADER_BYTES:
            raise BackupCutShort(f"{name} is cut short in its first {_HEADER_BYTES} bytes")
        written_with = header[len(_MAGIC) :][:_KEY_ID_BYTES].hex()
        if written_with != key_id(key):
            raise WrongBackupKey(
                f"{name} was encrypted with the key {written_with}, and the key file holds {key_id(key)}: "
                "name the file with the right key in KINTSUGI_BACKUP_KEY"
            )
        self._cipher = _cipher(key, header[-_SALT_BYTES:])
        self._associated = header + name.encode()
        self._ahead = _read_exactly(source, _SEALED)
        self._number = 0
        self._plain = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` with authenticated bytes; returns how many, 0 at the end."""
        while not self._plain and not self._ended:
            self._plain = self._next_chunk()
        view = memoryview(buffer).cast("B")
        taken = self._plain[: len(view)]
        view[: len(taken)] = taken
        self._plain = self._plain[len(taken) :]
        return len(taken)

    def _next_chunk(self) -> bytes:
        sealed, self._ahead = self._ahead, _read_exactly(self._source, _SEALED)
        where = f"{self._name}: chunk {self._number}"
        if len(sealed) < _SEALED:
            raise BackupCutShort(f"{where} is cut short: {len(sealed)} of {_SEALED} bytes")
        last = not self._ahead
        plain = self._open(sealed, last=last)
        if plain is None:
            if last and self._open(sealed, last=False) is not None:
                raise BackupCutShort(f"{where} is not the last one that was written, and the rest is missing")
            raise BackupAltered(f"{where} is altered, or belongs to another place or another backup")
        self._number += 1
        self._ended = last
        return plain.rstrip(b"\0")[:-1] if last else plain

    def _open(self, sealed: bytes, *, last: bool) -> bytes | None:
        """Return the plain text of a chunk; None if it is not authentic at this place."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(_nonce(self._number, last=last), sealed, self._associated)
        except InvalidTag:
            return None


def _new_header(key: bytes) -> tuple[AESGCM, bytes]:
    salt = secrets.token_bytes(_SALT_BYTES)
    return _cipher(key, salt), _MAGIC + bytes.fromhex(key_id(key)) + salt


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_derive(key, salt, b"kintsugi backup", 32))


def _derive(key: bytes, salt: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=purpose).derive(key)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _read_exactly(source: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, fewer only at the end of ``source``."""
    parts = []
    while size > 0 and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

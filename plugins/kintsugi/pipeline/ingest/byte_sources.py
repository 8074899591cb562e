"""The sources of a delivered file's bytes: an object in S3, a file on this machine, or memory."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest import s3_reader

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CHUNK = 1 << 18
# The largest single read: the directory of a zip archive. A larger directory means a damaged or malicious archive.
MAX_READ = 32 << 20


class ByteSource(Protocol):
    """A file that can be read from its beginning, and at any offset.

    ``name``: for messages; its last part may say which kind of file it is. ``size``: bytes.
    """

    name: str
    size: int

    def chunks(self) -> Generator[bytes, None, None]:
        """Yield its bytes from the beginning, in pieces of up to CHUNK bytes."""

    def seekable(self) -> io.RawIOBase:
        """Return a view that can be read at any offset."""


class SourceError(Exception):
    """An error of the source, not of the file. It passes through a library that would hide the original error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class LocalSource:
    """A regular file on this machine. Raises OSError if it can't be read, InputError if it isn't a regular file."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise InputError(f"{path} is {kind}; name a file")
        self.path, self.name, self.size = path, str(path), status.st_size

    def chunks(self) -> Generator[bytes, None, None]:
        with self.path.open("rb") as file:
            while data := file.read(CHUNK):
                yield data

    def seekable(self) -> io.RawIOBase:
        return _FileView(self.path)


class BytesSource:
    """A file whose bytes are in memory."""

    def __init__(self, body: bytes, name: str) -> None:
        self.name, self.size, self._body = name, len(body), body

    def chunks(self) -> Generator[bytes, None, None]:
        for start in range(0, self.size, CHUNK):
            yield self._body[start : start + CHUNK]

    def seekable(self) -> io.RawIOBase:
        return _Ranges(lambda start, end: self._body[start:end], self.size)


class S3Source:
    """One content (``etag``) of an S3 object; ``size``: bytes, set by `chunks` if it isn't given.

    Reading raises InputError when the object is gone or no longer has this content. Errors of S3 itself pass through.
    """

    def __init__(self, s3: S3Client, bucket: str, key: str, etag: str, size: int = -1) -> None:
        self._s3, self._bucket, self.name, self._etag, self.size = s3, bucket, key, etag, size

    def chunks(self) -> Generator[bytes, None, None]:
        response = self._get()
        self.size = response["ContentLength"]
        yield from s3_reader.read_chunks(response["Body"], 0, self.size, self._range)

    def seekable(self) -> io.RawIOBase:
        return _Ranges(self._range, self.size)

    def _range(self, start: int, end: int) -> bytes:
        data: bytes = self._get(Range=f"bytes={start}-{end - 1}")["Body"].read()
        return data

    def _get(self, **more: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._s3.get_object(
                Bucket=self._bucket,
                Key=self.name,
                IfMatch=self._etag,
                **more,  # type: ignore[arg-type]
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey", "404"):
                raise InputError(
                    f"{self.name} was replaced or deleted while it was read; new content is ingested as a new file"
                ) from error
            raise


class _FileView(io.FileIO):
    """A local file that refuses reads of more than MAX_READ bytes."""

    def readinto(self, buffer: Any, /) -> int:
        _check_size(len(buffer))
        return super().readinto(buffer)


def _check_size(size: int) -> None:
    if size > MAX_READ:
        raise ValueError(f"its directory has more than {MAX_READ} bytes")


class _Ranges(io.RawIOBase):
    """A seekable view by ranged reads: a zip archive's directory is at its end.

    Errors of the ranged reads are raised as SourceError.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self._size, self._offset = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        if target < 0:
            raise OSError("its directory points outside of the file")  # zipfile expects this class
        self._offset = target
        return target

    def readinto(self, buffer: Any) -> int:
        end = min(self._offset + len(buffer), self._size)
        if end <= self._offset:
            return 0
        _check_size(end - self._offset)
        try:
            data = self._read(self._offset, end)
        except Exception as error:
            raise SourceError(error) from error
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)

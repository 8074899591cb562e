"""Where the bytes of a delivered file come from: an object in S3, or a file on this machine."""

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
# The largest single read: a zip archive's list of members. A larger one is a damaged or a hostile archive.
MAX_READ = 32 << 20


class ByteSource(Protocol):
    """A file that can be read from its beginning, and at any place.

    ``name``: for messages; its last part may say of which kind it is. ``size``: bytes.
    """

    name: str
    size: int

    def chunks(self) -> Generator[bytes, None, None]:
        """Its bytes from the beginning, in pieces of up to CHUNK bytes."""

    def seekable(self) -> io.RawIOBase:
        """A view for reading at any place."""


class SourceError(Exception):
    """The place where the bytes lie failed, not the file: carries the error through a library that hides others."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class LocalSource:
    """A regular file on this machine. Raises OSError where it can't be read, InputError where it is no file."""

    def __init__(self, path: Path) -> None:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise InputError(f"{path} is {what}; name a file")
        self.path, self.name, self.size = path, str(path), found.st_size

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
    """One content (``etag``) of an S3 object; ``size``: bytes, looked up when it isn't given.

    Reading raises InputError once the object is gone or no longer has this content. Errors of S3 itself pass through.
    """

    def __init__(self, s3: S3Client, bucket: str, key: str, etag: str, size: int = -1) -> None:
        self._s3, self._bucket, self.name, self._etag, self.size = s3, bucket, key, etag, size

    def chunks(self) -> Generator[bytes, None, None]:
        response = self._get()
        self.size = response["ContentLength"]
        yield from s3_reader.chunks(response["Body"], 0, self.size, self._range)

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
                    f"{self.name} changed or vanished while it was being read; its new content is a new file"
                ) from error
            raise


class _FileView(io.FileIO):
    """A local file without reads of more than MAX_READ bytes."""

    def readinto(self, buffer: Any, /) -> int:
        _check_size(len(buffer))
        return super().readinto(buffer)


def _check_size(size: int) -> None:
    if size > MAX_READ:
        raise ValueError(f"a list of members of more than {MAX_READ} bytes")


class _Ranges(io.RawIOBase):
    """A seekable view by ranged reads: a zip archive's directory is at its end.

    Whatever the ranged read raises comes out as a SourceError.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError("its list of files points outside of the file")  # zipfile expects this type
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        _check_size(end - self._at)
        try:
            data = self._read(self._at, end)
        except Exception as error:
            raise SourceError(error) from error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

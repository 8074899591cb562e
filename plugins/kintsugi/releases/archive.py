"""Releases on disk and in S3: built once, never overwritten, checked each time they are used.

``<state>/control/releases/<digest>/`` holds the files of a release and its ``MANIFEST``. S3 holds the same as
``releases/<digest>.tar.gz``; a lost directory is restored from there.
"""

from __future__ import annotations

import difflib
import gzip
import io
import logging
import os
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import FleetError, KintsugiError
from kintsugi.core.fleet import load_fleet
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.operations.spool import deliver_to_s3
from kintsugi.releases import manifest as content

if TYPE_CHECKING:
    from kintsugi.operations.context import Context

MANIFEST = "MANIFEST"
# Far above what a release holds (about 500 files and 4 MiB): what is larger was not made by `pack_release`.
MAX_PACKED = 16 * 2**20
MAX_PLAIN = 64 * 2**20
MAX_FILES = 5000
_EPOCH = 0  # the time of every file in the archive, so that the same release gives the same bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Release:
    """A release in its directory. ``digest``: 64 hexadecimal digits."""

    digest: str
    directory: Path

    @property
    def short(self) -> str:
        """The first 12 digits of the digest, as shown to people."""
        return self.digest[:12]

    @property
    def fleet_file(self) -> Path:
        return self.directory / content.FLEET_FILE

    @property
    def manifest(self) -> content.Manifest:
        """The release's manifest; raises FleetError if it can't be read."""
        try:
            return content.parse_manifest((self.directory / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise FleetError(f"{self.directory / MANIFEST} is not a valid manifest: {error}") from error


def directory_of(settings: Settings) -> Path:
    """Return the directory of an installation's releases."""
    return settings.control / "releases"


def build_release(settings: Settings, source: Path | None = None, fleet_file: Path | None = None) -> Release:
    """Copy the tree at ``source`` (default: this checkout with the current fleet file) into a release directory.

    The same tree gives the same release; an existing one is not changed. Raises FleetError if ``source`` is not a
    checkout or its fleet file is invalid.
    """
    own_fleet = source is None
    source = source or settings.repository
    fleet_file = fleet_file or (settings.fleet_file if own_fleet else source / content.FLEET_FILE)
    load_fleet(fleet_file)
    manifest = content.read_manifest(source, fleet_file)
    files = {path: (source / path).read_bytes() for path in manifest if path != content.FLEET_FILE}
    return _write_release(settings, manifest, files | {content.FLEET_FILE: fleet_file.read_bytes()})


def digest_of(settings: Settings) -> str:
    """Return the digest that this checkout would have as a release."""
    return content.manifest_digest(content.read_manifest(settings.repository, settings.fleet_file))


def _write_release(settings: Settings, manifest: content.Manifest, files: Mapping[str, bytes]) -> Release:
    """Write a release directory under a temporary name and rename it, so that it is never incomplete."""
    release = Release(
        content.manifest_digest(manifest), directory_of(settings) / content.manifest_digest(manifest)
    )
    if release.directory.exists():
        verify_release(release)
        return release
    fresh = release.directory.with_name(f".{release.digest}.{uuid.uuid4().hex[:8]}")
    try:
        for path, body in files.items():
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(body)
            # A release is read-only, also for its owner.
            target.chmod(0o555 if manifest[path].mode == "755" else 0o444)
        (fresh / MANIFEST).write_text(content.format_manifest(manifest))
        verify_release(Release(release.digest, fresh))
        fresh.rename(release.directory)
    except OSError:
        if not release.directory.exists():  # else another process was faster and wrote the same bytes
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return release


def verify_release(release: Release) -> None:
    """Raise FleetError, which names the files, unless the directory holds exactly the content of the digest."""
    written = content.read_manifest(release.directory)
    difference = content.compare_manifests(release.manifest, written)
    if difference:
        odd = [*difference.changed, *difference.added, *difference.removed]
        raise FleetError(
            f"release {release.short} at {release.directory} was altered: {', '.join(odd[:3])}"
            f"{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}"
        )
    if content.manifest_digest(written) != release.digest:
        raise FleetError(
            f"{release.directory} is not release {release.short}: its content has another digest"
        )


def find_release(settings: Settings, digest: str, s3: Any = None) -> Release:
    """Return the release of this digest, checked; from S3 (``s3``: a client) if its directory is gone or altered.

    Raises FleetError if it isn't found, or if its content doesn't have this digest.
    """
    release = Release(digest, directory_of(settings) / digest)
    if not release.directory.is_dir():
        if s3 is None:
            raise FleetError(f"release {release.short} is not at {release.directory}")
        return _fetch_release(settings, release, s3)
    try:
        verify_release(release)
    except FleetError as error:
        if s3 is None:
            raise
        aside = release.directory.with_name(f".altered.{release.digest}.{uuid.uuid4().hex[:8]}")
        log.warning("%s; it is renamed to %s, and the release is fetched from S3", error, aside.name)
        release.directory.rename(aside)
        return _fetch_release(settings, release, s3)
    return release


def _fetch_release(settings: Settings, release: Release, s3: Any) -> Release:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        body = s3.get_object(Bucket=BUCKET, Key=archive_key(release.digest))["Body"].read(MAX_PACKED + 1)
    except (BotoCoreError, ClientError) as error:
        raise FleetError(
            f"release {release.short} is neither at {release.directory} nor in S3 at "
            f"{archive_key(release.digest)} ({error})"
        ) from error
    files = unpack_release(body)
    try:
        manifest = content.parse_manifest(files.pop(MANIFEST).decode())
    except (KeyError, ValueError) as error:
        raise FleetError(
            f"{archive_key(release.digest)} in S3 has no valid manifest; the object was altered"
        ) from error
    if content.manifest_digest(manifest) != release.digest or files.keys() != manifest.keys():
        raise FleetError(
            f"{archive_key(release.digest)} in S3 is not release {release.short}; the object was altered"
        )
    return _write_release(settings, manifest, files)


def archive_key(digest: str) -> str:
    """Return the S3 key of a release's archive."""
    return f"releases/{digest}.tar.gz"


def pack_release(release: Release) -> bytes:
    """Return the release as a gzipped tar archive; the same release gives the same bytes."""
    manifest = release.manifest
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in (MANIFEST, *sorted(manifest)):
            body = (release.directory / path).read_bytes()
            entry = tarfile.TarInfo(path)
            entry.size, entry.mtime = len(body), _EPOCH
            entry.mode = 0o755 if path in manifest and manifest[path].mode == "755" else 0o644
            archive.addfile(entry, io.BytesIO(body))
    return gzip.compress(plain.getvalue(), mtime=_EPOCH)


def unpack_release(body: bytes) -> dict[str, bytes]:
    """Return the files of an archive by path.

    Raises FleetError for anything but plain files below the root, each once, and for more than MAX_PACKED bytes,
    MAX_PLAIN bytes after decompression, or MAX_FILES files.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_inflate_archive(body)), mode="r:") as archive:
            for entry in archive:
                handle = archive.extractfile(entry) if _is_plain_file(entry) else None
                if handle is None or entry.name in files:
                    raise FleetError(
                        f"the archive of a release holds {entry.name[:200]!r}, which is not a plain file below its "
                        "root, or is there twice; the object was altered"
                    )
                if len(files) == MAX_FILES:
                    raise FleetError(
                        f"the archive of a release has more than {MAX_FILES} files; the object was altered"
                    )
                files[entry.name] = handle.read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise FleetError(f"the archive of a release can't be read: {error}") from error
    return files


def _inflate_archive(body: bytes) -> bytes:
    engine = zlib.decompressobj(wbits=31)
    try:
        plain = engine.decompress(body[: MAX_PACKED + 1], MAX_PLAIN)
    except zlib.error as error:
        raise FleetError(f"the archive of a release can't be read: {error}") from error
    if len(body) > MAX_PACKED or engine.unconsumed_tail:
        raise FleetError(
            f"the archive of a release has more than {MAX_PACKED >> 20} MiB, or more than {MAX_PLAIN >> 20} MiB "
            "when it is unpacked; the object was altered"
        )
    if not engine.eof or engine.unused_data:
        raise FleetError("the archive of a release can't be read: it is cut short, or something follows it")
    return plain


def _is_plain_file(entry: tarfile.TarInfo) -> bool:
    """Whether the entry has its own bytes (a link has another's, a sparse file has more than there are) and a path."""
    path = PurePosixPath(entry.name)
    below = not path.is_absolute() and ".." not in path.parts and str(path) == entry.name and path.name != ""
    return entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse() and below


def store_in_s3(context: Context, release: Release) -> None:
    """Put the archive into S3 unless it is there; into the spool if S3 is unreachable."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        context.s3(S3Purpose.RELEASES).head_object(Bucket=BUCKET, Key=archive_key(release.digest))
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
            log.warning("it is unknown whether S3 has release %s: %s", release.short, error)
        deliver_to_s3(context, archive_key(release.digest), pack_release(release))
    except BotoCoreError as error:
        log.warning("S3 is unreachable: %s", error)
        deliver_to_s3(context, archive_key(release.digest), pack_release(release))


def publish_release(context: Context) -> Release:
    """Build a release from this checkout: on disk, in S3 and in the database."""
    release = build_release(context.settings)
    store_in_s3(context, release)
    context.store.add_release(release.digest, describe_source(context.settings.repository))
    return release


def releases_on_disk(settings: Settings) -> list[Release]:
    """Return the releases that have a directory, unchecked."""
    paths = sorted(directory_of(settings).glob("[0-9a-f]*"))
    return [Release(path.name, path) for path in paths if len(path.name) == 64]


def unified_diff(old: Release, new: Release) -> str:
    """Return the unified diff of all text files from ``old`` to ``new``."""
    difference = content.compare_manifests(old.manifest, new.manifest)
    pieces = []
    for path in sorted((*difference.added, *difference.removed, *difference.changed)):
        lines = difflib.unified_diff(_text_lines(old, path), _text_lines(new, path), f"a/{path}", f"b/{path}")
        pieces.append("".join(lines) or f"{path}: its mode changed\n")
    return "".join(pieces)


def _text_lines(release: Release, path: str) -> list[str]:
    file = release.directory / path
    if path not in release.manifest:
        return []
    try:
        text = file.read_text()
    except UnicodeDecodeError as error:
        raise KintsugiError(f"{file} is not a text file, so it can't be shown as a diff") from error
    return [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]


def describe_source(source: Path) -> str:
    """Describe ``source`` for people: its path and, if git knows it, its commit (``+``: with uncommitted changes)."""
    import subprocess

    git = shutil.which("git")
    if git is None:
        return str(source)
    described = subprocess.run(
        [git, "-C", os.fspath(source), "describe", "--always", "--dirty=+", "--exclude=*"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return f"{source} at {described.stdout.strip()}" if described.returncode == 0 else str(source)

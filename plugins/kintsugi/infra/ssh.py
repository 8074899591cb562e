"""SSH to the nodes: one user key, and one host authority that signs each node's host key.

Clients trust the authority by one ``@cert-authority`` line, so a rebuilt node is known from its first
second and host keys are always checked.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.settings import Settings

OUTPUT_BYTES = 16 * 2**20  # of one command on a node, on each of its two streams


def key_directory(settings: Settings) -> Path:
    """Holds ``user`` and ``host_ca`` (with ``.pub``) and ``known_hosts``."""
    return settings.secrets / "ssh"


def ssh_user() -> str:
    """Whom to log in as: nodes of the local environment run as the user who made them."""
    return pwd.getpwuid(os.geteuid()).pw_name


def ensure_keys(settings: Settings) -> Path:
    """Make user key, host authority and known_hosts where missing; returns their directory."""
    directory = key_directory(settings)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(directory / ".lock"):
        for name in ("user", "host_ca"):
            make_key(directory / name, comment=f"kintsugi-{name}")
        authority = (directory / "host_ca.pub").read_text()
        (directory / "known_hosts").write_text(f"@cert-authority * {authority}")
    return directory


def make_key(path: Path, comment: str) -> None:
    """An ed25519 key pair without passphrase at ``path``, unless a complete one is there."""
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and public.exists():
        return
    path.unlink(missing_ok=True)
    _keygen("-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))


def sign_host_key(settings: Settings, node: Node, key: Path) -> None:
    """Certify ``key``.pub as the host key of ``node``, by address and by name."""
    authority = key_directory(settings) / "host_ca"
    principals = f"{node.address},{node.name}"
    _keygen("-s", str(authority), "-I", node.name, "-h", "-n", principals, f"{key}.pub")


def ssh_options(settings: Settings) -> list[str]:
    """Options of ssh that find our keys and nobody else's, never ask, and give up on silence."""
    directory = key_directory(settings)
    return [
        "-F", "/dev/null",
        "-i", str(directory / "user"),
        "-o", "IdentitiesOnly=yes",
        "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={directory / 'known_hosts'}",
        "-o", "GlobalKnownHostsFile=/dev/null",
        "-o", "LogLevel=ERROR",
        "-o", "ConnectTimeout=5",
        "-o", "ServerAliveInterval=3",
        "-o", "ServerAliveCountMax=3",
    ]  # fmt: skip


def ssh_command(settings: Settings, node: Node, argv: Sequence[str]) -> list[str]:
    """The argument list that runs ``argv`` on ``node``, each word quoted for the far shell."""
    target = f"{ssh_user()}@{node.address}"
    return ["ssh", *ssh_options(settings), "-p", str(node.ssh_port), target, "--", shlex.join(argv)]


def run_over_ssh(
    settings: Settings, node: Node, argv: Sequence[str], timeout: float = 15.0
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` on ``node`` and return what it gave, whatever its exit code.

    ssh's own code 255 means that no connection came about. Raises StepFailed after ``timeout`` seconds, and when the
    node sends more than OUTPUT_BYTES: it might never end.
    """
    command = ssh_command(settings, node, argv)
    try:
        return _run_bounded(command, timeout)
    except subprocess.TimeoutExpired as error:
        raise StepFailed(
            f"{node.name}: {argv[0]} over SSH gave no answer in {timeout:.0f} s; is the node hung?"
        ) from error
    except _TooMuchOutput as error:
        raise StepFailed(
            f"{node.name}: {argv[0]} over SSH sent more than {OUTPUT_BYTES >> 20} MiB and was ended; look at the node"
        ) from error


class _TooMuchOutput(Exception):
    """A command has written more than OUTPUT_BYTES."""


def _run_bounded(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    streams: tuple[bytearray, bytearray] = bytearray(), bytearray()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:

        def collect(pipe: IO[bytes], into: bytearray) -> None:
            while len(into) <= OUTPUT_BYTES and (chunk := os.read(pipe.fileno(), 1 << 16)):
                into.extend(chunk)
            if len(into) > OUTPUT_BYTES:
                process.kill()

        pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
        readers = [
            threading.Thread(target=collect, args=pair, daemon=True)
            for pair in zip(pipes, streams, strict=True)
        ]
        for reader in readers:
            reader.start()
        try:
            process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        finally:
            for reader in readers:
                reader.join()
    if any(len(stream) > OUTPUT_BYTES for stream in streams):
        raise _TooMuchOutput
    out, err = (stream.decode(errors="replace") for stream in streams)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _keygen(*arguments: str) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-q", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StepFailed(f"ssh-keygen failed for {arguments[-1]}: {done.stderr.strip()}")

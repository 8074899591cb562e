"""SSH to the nodes: one user key, and one host authority that signs each node's host key.

Clients trust the authority by one ``@cert-authority`` line. So host keys are always checked, and a rebuilt node is
trusted at once.

The user key is replaced without a stop: every node accepts the next one before it is used (`publish_next_key`,
`promote_next_key`). The authority is, too: clients trust the next one before it signs, and the old one until every node
has a certificate of the next (`publish_next_host_authority`, `promote_next_host_authority`,
`drop_old_host_authority`).
"""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kintsugi.core.errors import StepFailed
from kintsugi.core.files import hold_lock, write_private
from kintsugi.core.fleet import Host, Node
from kintsugi.core.settings import Settings

_USER, _NEXT_USER = "user", "user-next"
_AUTHORITY, _NEXT_AUTHORITY = "host_ca", "host_ca-next"
_HOST_LOGIN = "host_login"
_TRUSTED = "@cert-authority * "  # how a line of known_hosts begins
_ACCEPTED_KEYS = 2  # the one that is used, and the next
HOST_CONNECTS_WITHIN_S = 3
OUTPUT_BYTES = 16 * 2**20  # of one command on a node, on each of its two streams


def key_directory(settings: Settings) -> Path:
    """Return the directory of ``user`` and ``host_ca`` (with ``.pub``), ``known_hosts`` and ``authorized_keys``."""
    return settings.secrets / "ssh"


def ssh_user() -> str:
    """Return the user to log in as: nodes of the local environment run as the user who created them."""
    return pwd.getpwuid(os.geteuid()).pw_name


def ensure_keys(settings: Settings) -> Path:
    """Create user key, host authority and known_hosts if they are missing; returns their directory."""
    with _locked_directory(settings) as directory:
        _finish_promotions(directory)
        for name in (_USER, _AUTHORITY):
            make_key(directory / name, comment=f"kintsugi-{name}")
        if _trust_line(directory, _AUTHORITY) not in _trust_lines(directory):
            write_private(directory / "known_hosts", _trust_line(directory, _AUTHORITY))
        accepted = directory / "authorized_keys"
        if not accepted.exists():
            write_private(accepted, (directory / f"{_USER}.pub").read_text())
    return directory


def ensure_host_login(settings: Settings) -> Path:
    """Create the key that logs in to the hosts themselves if it is missing; returns its path.

    No rotation replaces it, because a person has to let it in on every host (docs/hosts.md).
    """
    with _locked_directory(settings) as directory:
        make_key(directory / _HOST_LOGIN, comment=f"kintsugi-{_HOST_LOGIN}")
    return directory / _HOST_LOGIN


def node_user(node: Node) -> str:
    """Return the user to log in to ``node`` as: on a host its init runs as root."""
    return "root" if node.host else ssh_user()


def authorized_keys(settings: Settings) -> str:
    """Return the public keys that a node accepts, one a line."""
    return (ensure_keys(settings) / "authorized_keys").read_text()


def publish_next_key(settings: Settings) -> None:
    """Make the user key that is used next, and let nodes accept it from their next configuration on.

    Does nothing if it exists. The key before the present one is accepted until then.
    """
    ensure_keys(settings)
    with _locked_directory(settings) as directory:
        make_key(directory / _NEXT_USER, comment=f"kintsugi-{_USER}")
        following = (directory / f"{_NEXT_USER}.pub").read_text()
        accepted = (directory / "authorized_keys").read_text().splitlines(keepends=True)
        if following not in accepted:
            write_private(directory / "authorized_keys", "".join([*accepted, following][-_ACCEPTED_KEYS:]))


def is_key_published(settings: Settings) -> bool:
    """Whether a key waits until every node accepts it."""
    return (key_directory(settings) / _NEXT_USER).exists()


def promote_next_key(settings: Settings) -> bool:
    """Use the published key from now on; the caller knows that every node accepts it. False if none is published."""
    with _locked_directory(settings) as directory:
        return _promote(directory, _NEXT_USER, _USER)


def publish_next_host_authority(settings: Settings) -> None:
    """Make the authority that signs host keys next, and trust it from now on beside the present one.

    Does nothing if it exists, or while the authority before the present one is still trusted.
    """
    ensure_keys(settings)
    with _locked_directory(settings) as directory:
        trusted = _trust_lines(directory)
        if len(trusted) > 1 and not (directory / _NEXT_AUTHORITY).exists():
            return
        make_key(directory / _NEXT_AUTHORITY, comment=f"kintsugi-{_AUTHORITY}")
        following = _trust_line(directory, _NEXT_AUTHORITY)
        if following not in trusted:
            write_private(directory / "known_hosts", "".join([*trusted, following]))


def promote_next_host_authority(settings: Settings) -> bool:
    """Let the published authority sign from now on. False if none is published."""
    with _locked_directory(settings) as directory:
        return _promote(directory, _NEXT_AUTHORITY, _AUTHORITY)


def drop_old_host_authority(settings: Settings) -> bool:
    """Trust only the authority that signs; the caller knows that every node has a certificate of it.

    Returns False if no other one is trusted, or if the next one doesn't sign yet.
    """
    ensure_keys(settings)
    with _locked_directory(settings) as directory:
        if len(_trust_lines(directory)) < 2 or (directory / _NEXT_AUTHORITY).exists():
            return False
        write_private(directory / "known_hosts", _trust_line(directory, _AUTHORITY))
    return True


def _trust_line(directory: Path, name: str) -> str:
    return _TRUSTED + (directory / f"{name}.pub").read_text()


def _trust_lines(directory: Path) -> list[str]:
    known = directory / "known_hosts"
    lines = known.read_text().splitlines(keepends=True) if known.exists() else []
    return [line for line in lines if line.startswith(_TRUSTED)]


def _promote(directory: Path, following: str, name: str) -> bool:
    """Put the key ``following`` in the place of ``name``; False if there is none."""
    _finish_promotions(directory)
    if not (directory / following).exists():
        return False
    (directory / following).replace(directory / name)
    _finish_promotions(directory)
    return True


def _finish_promotions(directory: Path) -> None:
    """A process that was killed between the two renames left the new key with the old key's public half."""
    for following, name in ((_NEXT_USER, _USER), (_NEXT_AUTHORITY, _AUTHORITY)):
        public = directory / f"{following}.pub"
        if public.exists() and not (directory / following).exists():
            public.replace(directory / f"{name}.pub")


@contextmanager
def _locked_directory(settings: Settings) -> Iterator[Path]:
    directory = key_directory(settings)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(directory / ".lock"):
        yield directory


def make_key(path: Path, comment: str) -> None:
    """Create an ed25519 key pair without passphrase at ``path``, unless a complete one exists."""
    public = path.with_name(f"{path.name}.pub")
    if path.exists() and public.exists():
        return
    path.unlink(missing_ok=True)
    _run_keygen("-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))


def sign_host_key(settings: Settings, node: Node, key: Path) -> None:
    """Certify ``key``.pub as the host key of ``node``, by address and by name."""
    authority = key_directory(settings) / _AUTHORITY
    principals = f"{node.address},{node.name}"
    _run_keygen("-s", str(authority), "-I", node.name, "-h", "-n", principals, f"{key}.pub")


def accepts_next_key(settings: Settings, node: Node, timeout: float = 15.0) -> bool:
    """Whether ``node`` lets the published key in; False also if it can't be reached."""
    try:
        return run_over_ssh(settings, node, ["true"], timeout, _NEXT_USER).returncode == 0
    except StepFailed:
        return False


def shows_present_authority(settings: Settings, node: Node, timeout: float = 15.0) -> bool:
    """Whether ``node`` proves itself by the authority that signs now; False also if it can't be reached."""
    directory = ensure_keys(settings)
    with tempfile.NamedTemporaryFile("w", dir=directory, prefix=".known_hosts-") as known:
        known.write(_trust_line(directory, _AUTHORITY))
        known.flush()
        command = ssh_command(settings, node, ["true"], known_hosts=known.name)
        try:
            return _run_bounded(command, timeout).returncode == 0
        except (subprocess.TimeoutExpired, _TooMuchOutput):
            return False


def ssh_options(settings: Settings, key: str = _USER, known_hosts: str = "known_hosts") -> list[str]:
    """Return options of ssh: use only our keys, never ask, and end when the node is silent.

    ``key`` and ``known_hosts``: their files, in the directory of keys.
    """
    directory = key_directory(settings)
    return [
        "-F", "/dev/null",
        "-i", str(directory / key),
        "-o", "IdentitiesOnly=yes",
        "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={directory / known_hosts}",
        "-o", "GlobalKnownHostsFile=/dev/null",
        "-o", "LogLevel=ERROR",
        "-o", "ConnectTimeout=5",
        "-o", "ServerAliveInterval=3",
        "-o", "ServerAliveCountMax=3",
    ]  # fmt: skip


def ssh_command(
    settings: Settings, node: Node, argv: Sequence[str], key: str = _USER, known_hosts: str = "known_hosts"
) -> list[str]:
    """Return the argument list that runs ``argv`` on ``node``; each word is quoted for the shell there."""
    options = [*ssh_options(settings, key, known_hosts), "-p", str(node.ssh_port)]
    return ["ssh", *options, f"{node_user(node)}@{node.address}", "--", shlex.join(argv)]


def host_command(settings: Settings, host: Host, argv: Sequence[str]) -> list[str]:
    """Return the argument list that runs ``argv`` on the machine ``host`` as root, by its own sshd."""
    ensure_host_login(settings)
    known = f"known_hosts-{host.name}"
    address = host.address if host.ssh_port == 22 else f"[{host.address}]:{host.ssh_port}"
    line, path = f"{address} {host.host_key}\n", key_directory(settings) / known
    if not path.exists() or path.read_text() != line:
        write_private(path, line)
    # The first value counts: a recovery asks a silent host several times, and each costs this many seconds.
    timeout = ["-o", f"ConnectTimeout={HOST_CONNECTS_WITHIN_S}"]
    options = [*timeout, *ssh_options(settings, _HOST_LOGIN, known), "-p", str(host.ssh_port)]
    sudo = [] if host.user == "root" else ["sudo", "-n"]
    return ["ssh", *options, f"{host.user}@{host.address}", "--", shlex.join([*sudo, *argv])]


def run_on_host(
    settings: Settings, host: Host, argv: Sequence[str], timeout: float = 15.0, given: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` as root on the machine ``host``, with ``given`` as its input; else as `run_over_ssh`."""
    with tempfile.TemporaryFile() as standard_input:
        standard_input.write(given)
        standard_input.seek(0)
        return _run_named(host.name, argv[0], host_command(settings, host, argv), timeout, standard_input)


def run_over_ssh(
    settings: Settings, node: Node, argv: Sequence[str], timeout: float = 15.0, key: str = _USER
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` on ``node``; returns its result, whatever its exit code.

    Exit code 255 is ssh's own: there was no connection. Raises StepFailed after ``timeout`` seconds, and when the
    node sends more than OUTPUT_BYTES: it might never end.
    """
    return _run_named(node.name, argv[0], ssh_command(settings, node, argv, key), timeout)


def _run_named(
    name: str, program: str, command: Sequence[str], timeout: float, standard_input: IO[bytes] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return _run_bounded(command, timeout, standard_input)
    except subprocess.TimeoutExpired as error:
        raise StepFailed(
            f"{name}: {program} over SSH gave no answer in {timeout:.0f} s; is the node hung?"
        ) from error
    except _TooMuchOutput as error:
        raise StepFailed(
            f"{name}: {program} over SSH sent more than {OUTPUT_BYTES >> 20} MiB and was ended; look at the node"
        ) from error


class _TooMuchOutput(Exception):
    """A command has written more than OUTPUT_BYTES."""


def _run_bounded(
    command: Sequence[str], timeout: float, standard_input: IO[bytes] | None = None
) -> subprocess.CompletedProcess[str]:
    streams: tuple[bytearray, bytearray] = bytearray(), bytearray()
    with subprocess.Popen(
        command, stdin=standard_input or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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


def _run_keygen(*arguments: str) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-q", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StepFailed(f"ssh-keygen failed for {arguments[-1]}: {done.stderr.strip()}")

"""Test hosts: machines as far as the control plane can tell, reached by their address and by SSH only.

Each has a network namespace with an address behind a bridge, its own root file system, PID and mount namespaces, host
keys and sshd. It shares no path with the control plane that either can write. `power_off` kills everything on it at
once; `cut_off` leaves it running and lets no packet through. Only root can make them.

The command line is the fence agent: ``machines.py <directory> <host> status|off|on``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import load_settings

INIT = REPOSITORY / "tests" / "hosts" / "host_init.py"
KEY_TYPES = ("ecdsa", "ed25519")  # Debian makes an RSA key too, which takes longest
SSHD = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 50:30:100
"""
_ENDS_WITHIN_S = 20.0


def reason_unavailable() -> str | None:
    """Return why no test host can be made on this machine; None if they can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces and mounts"
    if shutil.which("ip") is None or shutil.which("sshd", path="/usr/sbin:/usr/bin") is None:
        return "needs the Debian packages iproute2 and openssh-server"
    trial = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], check=False)
    return None if trial.returncode == 0 else "root may make no namespaces here"


@dataclass(frozen=True, slots=True)
class Machine:
    """One test host. ``directory``: what the machine's maker knows of it; its disk is ``directory/disk``."""

    name: str
    address: str
    directory: Path
    namespace: str
    link: str

    @property
    def disk(self) -> Path:
        return self.directory / "disk"

    @property
    def host_key(self) -> str:
        """The public key that its sshd shows to a client that wants ecdsa, as the fleet file takes it."""
        kind, key = (self.disk / "etc/ssh/ssh_host_ecdsa_key.pub").read_text().split()[:2]
        return f"{kind} {key}"

    def admit(self, public_key: str) -> None:
        """Let the owner of this key log in as root."""
        (self.disk / "root/.ssh").mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.disk / "root/.ssh/authorized_keys").write_text(public_key)

    def init(self) -> psutil.Process | None:
        """Return the first process of the host, if it runs."""
        with suppress(OSError, ValueError, psutil.Error):
            recorded = json.loads((self.directory / "init.json").read_text())
            process = psutil.Process(recorded["pid"])
            if process.create_time() == recorded["started"] and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def power_on(self) -> None:
        """Boot it; returns when its first process runs. Its network is whole again."""
        ip("link", "set", self.link, "up")
        if self.init() is not None:
            return
        command = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--pid", "--uts", "--fork"]
        command += ["--kill-child", "--propagation", "private", "--", sys.executable, str(INIT)]
        with (self.directory / "console.log").open("ab") as console:
            parent = subprocess.Popen(
                [*command, str(self.disk), self.name, *map(str, shown_paths())],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "plugins")},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = _only_child(parent)
        recorded = {"pid": process.pid, "started": process.create_time()}
        (self.directory / "init.json").write_text(json.dumps(recorded))

    def power_off(self) -> None:
        """Kill everything on it at once, as pulling the plug does; returns when nothing of it runs."""
        process = self.init()
        if process is None:
            return
        parent = process.parent()
        process.kill()  # the kernel kills all other processes of its PID namespace
        _await_end(process)
        if parent is not None:
            _await_end(parent)

    def cut_off(self) -> None:
        """Let no packet in or out; everything on it runs on."""
        ip("link", "set", self.link, "down")


def shown_paths() -> list[Path]:
    """Return what a host is shown read-only: what an image with this checkout would hold."""
    paths = {
        Path("/usr"),
        REPOSITORY.resolve(),
        Path(sys.prefix).resolve(),
        Path(sys.base_prefix).resolve(),
        load_settings().cache.resolve(),
    }
    if os.environ.get("JAVA_HOME"):
        paths.add(Path(os.environ["JAVA_HOME"]).resolve())
    # The same path may lie below another one, which shows it already.
    return sorted(path for path in paths if not any(other in path.parents for other in paths))


@contextmanager
def machines(directory: Path, block: str, names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """Make hosts called ``names`` at ``<block>.11``, ``.12``…; the control plane is at ``<block>.1`` of the bridge.

    All of it is removed at the end, and what a killed run left before.
    """
    mark = "kt" + block.rpartition(".")[2]
    made = {
        name: Machine(name, f"{block}.{10 + number}", directory / name, f"{mark}-{name}", f"{mark}v{number}")
        for number, name in enumerate(names, start=1)
    }
    _remove_network(mark, made.values())
    try:
        ip("link", "add", mark, "type", "bridge")
        ip("addr", "add", f"{block}.1/24", "dev", mark)
        ip("link", "set", mark, "up")
        for machine in made.values():
            _make(machine, mark)
        yield made
    finally:
        for machine in made.values():
            machine.power_off()
        _remove_network(mark, made.values())


def _make(machine: Machine, bridge: str) -> None:
    ip("netns", "add", machine.namespace)
    inside = ["-n", machine.namespace]
    ip("link", "add", machine.link, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
    ip("link", "set", machine.link, "master", bridge)
    ip(*inside, "addr", "add", f"{machine.address}/24", "dev", "eth0")
    ip(*inside, "link", "set", "eth0", "up")
    ip(*inside, "link", "set", "lo", "up")
    shutil.copytree("/etc", machine.disk / "etc", symlinks=True, ignore=_unneeded)
    ssh = machine.disk / "etc/ssh"
    ssh.mkdir(exist_ok=True)
    (ssh / "sshd_config").write_text(SSHD)
    for kind in KEY_TYPES:
        key = str(ssh / f"ssh_host_{kind}_key")
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
    machine.power_on()


def _unneeded(directory: str, names: list[str]) -> set[str]:
    """Secrets of the machine, and what no host needs."""
    if directory != "/etc":
        return set()
    unneeded = {"ssh", "kintsugi", "postgresql", "ssl/private", "systemd", "shadow-", "gshadow-", "vulkan"}
    return unneeded & set(names)


def _remove_network(mark: str, made: Iterable[Machine]) -> None:
    for machine in made:
        for pid in ip("netns", "pids", machine.namespace, check=False).split():
            with suppress(psutil.Error):
                psutil.Process(int(pid)).kill()
        ip("link", "del", machine.link, check=False)
        ip("netns", "del", machine.namespace, check=False)
    ip("link", "del", mark, check=False)


def ip(*arguments: str, check: bool = True) -> str:
    """Run ``ip``; returns what it printed."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _only_child(parent: subprocess.Popen[bytes]) -> psutil.Process:
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while time.monotonic() < deadline and parent.poll() is None:
        if children := psutil.Process(parent.pid).children():
            return children[0]
        time.sleep(0.005)
    raise RuntimeError(f"a test host did not start (status {parent.returncode}); see its console.log")


def _await_end(process: psutil.Process) -> None:
    deadline = time.monotonic() + _ENDS_WITHIN_S
    with suppress(psutil.Error):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise RuntimeError(f"process {process.pid} of a test host did not end")
            time.sleep(0.01)


def write_agent(directory: Path, made: dict[str, Machine]) -> list[str]:
    """Write what the fence agent has to know; returns its command for the fleet file."""
    for machine in made.values():
        known = {"address": machine.address, "namespace": machine.namespace, "link": machine.link}
        (machine.directory / "machine.json").write_text(json.dumps(known))
    # The environment of an agent is its caller's choice, so this names what it imports.
    modules = f"PYTHONPATH={REPOSITORY / 'plugins'}"
    return ["/usr/bin/env", modules, sys.executable, str(Path(__file__).resolve()), str(directory)]


def fence(directory: Path, name: str, action: str) -> None:
    """Do what a fence agent does, and write down that it was asked."""
    machine = Machine(
        name, directory=directory / name, **json.loads((directory / name / "machine.json").read_text())
    )
    with (directory / "fence.log").open("a") as log:
        log.write(f"{action} {name}\n")
    if action == "off":
        machine.power_off()
    elif action == "on":
        machine.power_on()
    else:
        print("off" if machine.init() is None else "on")


if __name__ == "__main__":
    fence(Path(sys.argv[1]), sys.argv[2], sys.argv[3])

"""Class data archives: a JVM stores what it has read of its classes, and later starts use it.

Measured on two cores: Kafka serves after 1.9 s of processor time instead of 5.3 s, Cassandra after 5 s
instead of 8 s. An archive belongs to one Java and one set of jars, both named by its digest; without a
matching one a JVM starts without. ``python -m kintsugi.infra.class_data_sharing`` makes those that are
missing, once for each machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.errors import KintsugiError, PreflightError, StepFailed
from kintsugi.core.settings import Settings, load_settings

# The compiler and the collector of the roles: an archive only matches the same kind of JVM.
JVM = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+PerfDisableSharedMem"]
_ADDRESS = "127.255.254.1"
_START_S = 120.0
_WRITE_S = 180.0
PRODUCTS = ("kafka", "cassandra", "spark")
_OLD_ARCHIVES = 3  # of each product, 30 to 60 MB each


@dataclass(frozen=True, slots=True)
class _Server:
    """How to start one product; it has started when ``port`` accepts a connection."""

    command: list[str]
    port: int


def java_home() -> Path:
    """Return the home of the machine's Java; raises PreflightError if there is none."""
    java = shutil.which("java")
    if java is None:
        raise PreflightError("java is not installed; install the Debian package openjdk-17-jre-headless")
    return Path(java).resolve().parents[1]


def archive_path(settings: Settings, product: str) -> Path:
    """Return the path of the archive for ``product`` (kafka, cassandra, spark) and this Java; it need not exist."""
    home = java_home()
    digest = hashlib.sha256(str(home).encode() + (home / "release").read_bytes())
    for jar in sorted(_jar_directory(settings, product).glob("*.jar")):
        status = jar.stat()
        # In seconds, as the JVM compares it: the layers of an image keep no fractions.
        digest.update(f"{jar} {status.st_size} {int(status.st_mtime)}\n".encode())
    return settings.cache / "class-archives" / f"{product}-{digest.hexdigest()[:16]}.jsa"


def archive_options(settings: Settings, product: str) -> list[str]:
    """Return the JVM options that use the archive for ``product``; none if it doesn't exist."""
    archive = archive_path(settings, product)
    if not archive.exists():
        return []
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto"]


def make_archives(settings: Settings, products: Collection[str] = PRODUCTS) -> list[Path]:
    """Create the missing archives of ``products``; returns their paths. Raises StepFailed if one doesn't start.

    Takes about 40 s on two idle cores, and no time if all exist.
    """
    makers = {"kafka": _kafka_server, "cassandra": _cassandra_server, "spark": _spark_server}
    new_archives = []
    for product in products:
        describe, archive = makers[product], archive_path(settings, product)
        if archive.exists():
            with contextlib.suppress(PermissionError):  # of another user, who removes them
                archive.touch()  # the oldest are removed, and this one is in use
            continue
        archive.parent.mkdir(parents=True, exist_ok=True)
        _remove_old_archives(archive.parent, product)
        with tempfile.TemporaryDirectory(prefix="kintsugi-") as scratch:
            fresh = archive.with_name(f".{archive.name}.{os.getpid()}")
            try:
                _record_archive(product, describe(settings, Path(scratch), fresh), fresh, Path(scratch))
                fresh.replace(archive)
            finally:
                fresh.unlink(missing_ok=True)
        new_archives.append(archive)
    return new_archives


def _remove_old_archives(directory: Path, product: str) -> None:
    """Keep the newest ones: a fleet that runs another release needs its own archive at each restart."""
    archives = sorted(directory.glob(f"{product}-*.jsa"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in archives[_OLD_ARCHIVES:]:
        old.unlink(missing_ok=True)


def _jar_directory(settings: Settings, product: str) -> Path:
    if product == "spark":
        import importlib.util

        spec = importlib.util.find_spec("pyspark")
        if spec is None or spec.origin is None:
            raise PreflightError("pyspark is not installed; run `make setup`")
        return Path(spec.origin).parent / "jars"
    return settings.jars(product)


def _record_archive(product: str, server: _Server, archive: Path, scratch: Path) -> None:
    log = scratch / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            server.command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _await_port(product, process, server.port, log)
        process.send_signal(signal.SIGTERM)
        process.wait(_WRITE_S)
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"{product} wrote no class archive within {_WRITE_S:.0f} s") from error
    finally:
        process.kill()
        process.wait()
    if not archive.exists():
        raise StepFailed(f"{product} ended without writing a class archive: {_last_line(log)}")


def _await_port(product: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex((_ADDRESS, port)) == 0:
                return
        time.sleep(0.1)
    raise StepFailed(f"{product} did not start for its class archive: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "its log is empty"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


def _java_command(archive: Path, classpath: Path, options: Sequence[str] = ()) -> list[str]:
    record = f"-XX:ArchiveClassesAtExit={archive}"
    return [str(java_home() / "bin" / "java"), "-Xmx512m", *JVM, *options, record, "-cp", f"{classpath}/*"]


def _kafka_server(settings: Settings, scratch: Path, archive: Path) -> _Server:
    client, controller = _free_port(), _free_port()
    properties = scratch / "server.properties"
    properties.write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n"
        f"controller.quorum.bootstrap.servers={_ADDRESS}:{controller}\n"
        f"listeners=PLAINTEXT://{_ADDRESS}:{client},CONTROLLER://{_ADDRESS}:{controller}\n"
        f"log.dirs={scratch / 'data'}\n"
    )
    jars = _jar_directory(settings, "kafka")
    tool = [str(java_home() / "bin" / "java"), *JVM, "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format"]
    cluster = ["-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(properties), "--standalone"]
    done = subprocess.run([*tool, *cluster], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"Kafka can't format a disk in {scratch}: {done.stderr.strip()[-300:]}")
    return _Server([*_java_command(archive, jars), "kafka.Kafka", str(properties)], client)


def _cassandra_server(settings: Settings, scratch: Path, archive: Path) -> _Server:
    client, storage = _free_port(), _free_port()
    (scratch / "cassandra.yaml").write_text(
        "cluster_name: archive\npartitioner: org.apache.cassandra.dht.Murmur3Partitioner\n"
        "endpoint_snitch: SimpleSnitch\ncommitlog_sync: periodic\ncommitlog_sync_period: 10000ms\n"
        "seed_provider:\n  - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n"
        f"    parameters:\n      - seeds: '{_ADDRESS}:{storage}'\n"
        f"listen_address: {_ADDRESS}\nrpc_address: {_ADDRESS}\n"
        f"storage_port: {storage}\nnative_transport_port: {client}\n"
    )
    jars = _jar_directory(settings, "cassandra")
    properties = {
        "cassandra.config": f"file://{scratch / 'cassandra.yaml'}",
        "cassandra.storagedir": str(scratch / "data"),
        "cassandra.logdir": str(scratch),
        "cassandra.ring_delay_ms": "1000",
        "cassandra.skip_wait_for_gossip_to_settle": "0",
        "cassandra.memtable.row_overhead_size": "181",
        "java.io.tmpdir": str(scratch),
        "jdk.attach.allowAttachSelf": "true",
    }
    # Without its agent, because no archive can be recorded with one. The agent changes no class, so the archive
    # matches with it too.
    options = cassandra_modules()
    options += [f"-D{key}={value}" for key, value in properties.items()]
    return _Server(
        [*_java_command(archive, jars, options), "org.apache.cassandra.service.CassandraDaemon"], client
    )


def _spark_server(settings: Settings, scratch: Path, archive: Path) -> _Server:
    client, page = _free_port(), _free_port()
    listen = ["--host", _ADDRESS, "--port", str(client), "--webui-port", str(page)]
    command = [
        *_java_command(archive, _jar_directory(settings, "spark"), spark_modules()),
        "org.apache.spark.deploy.master.Master",
    ]
    return _Server([*command, *listen], page)


def cassandra_modules() -> list[str]:
    """Return the JVM options that open the modules of Java 17 that Cassandra 5.0 uses."""
    base = (
        "java.io java.lang java.lang.module java.lang.reflect java.math java.net java.nio java.nio.charset "
        "java.util java.util.concurrent java.util.concurrent.atomic jdk.internal.loader jdk.internal.math "
        "jdk.internal.module jdk.internal.ref jdk.internal.reflect jdk.internal.util.jar sun.nio.ch"
    )
    exports = (
        "java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch "
        "java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry "
        "java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql jdk.unsupported/sun.misc"
    )
    opens = [f"java.base/{package}" for package in base.split()]
    opens += ["java.rmi/sun.rmi.transport.tcp", "jdk.management/com.sun.management.internal"]
    return [f"--add-exports={package}=ALL-UNNAMED" for package in exports.split()] + [
        f"--add-opens={package}=ALL-UNNAMED" for package in opens
    ]


def spark_modules() -> list[str]:
    """Return the JVM options that open the modules of Java 17 for Spark 4.2; spark-class would start a JVM for them."""
    base = (
        "java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.util "
        "java.util.concurrent java.util.concurrent.atomic jdk.internal.ref sun.nio.ch sun.nio.cs "
        "sun.security.action sun.util.calendar"
    )
    return [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in base.split()]


def main() -> int:
    """Create the missing archives and print their paths."""
    try:
        for archive in make_archives(load_settings()):
            print(f"made {archive}")
    except KintsugiError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())

"""Real servers for tests: Kafka, Cassandra, S3Proxy, Postgres and Spark as child processes.

Each function starts one server, waits until it serves,
and returns a Server; every process is ended by its own pid,
and dies with the test run (``setpriv --pdeathsig``). Nothing here is used by the product.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kintsugi.core.settings import load_settings
from kintsugi.db.database import Database

JARS = load_settings().jars
JDK_OPENS = [
    *(
        f"--add-exports={module}=ALL-UNNAMED"
        for module in (
            "java.base/jdk.internal.misc", "java.management.rmi/com.sun.jmx.remote.internal.rmi",
            "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server", "java.rmi/sun.rmi.transport.tcp",
            "java.sql/java.sql", "java.base/java.lang.ref", "jdk.unsupported/sun.misc",
            "jdk.compiler/com.sun.tools.javac.file",
        )
    ),
    *(
        f"--add-opens={module}=ALL-UNNAMED"
        for module in (
            "java.base/java.lang", "java.base/java.lang.module", "java.base/java.lang.reflect",
            "java.base/java.io",
            "java.base/java.math", "java.base/java.net", "java.base/java.nio", "java.base/java.util",
            "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic",
            "java.base/jdk.internal.loader",
            "java.base/jdk.internal.ref", "java.base/jdk.internal.reflect", "java.base/jdk.internal.math",
            "java.base/jdk.internal.module", "java.base/jdk.internal.util.jar", "java.base/sun.nio.ch",
            "jdk.management/com.sun.management.internal",
        )
    ),
]  # fmt: skip


@dataclass
class Server:
    """A running server: its process and what it says about itself."""

    name: str
    address: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"

    def kill(self) -> None:
        """Pull the plug: SIGKILL, and wait until the process is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 20 s."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


def wait_until(condition: Callable[[], bool], seconds: float, what: str, interval: float = 0.1) -> None:
    """Return as soon as ``condition()`` holds; fail after ``seconds``, naming ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(interval)


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((address, port)) == 0


def _complaints(log: Path) -> str:
    """Return the end of ``log`` without the lines of what went as planned."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([line for line in lines if " INFO " not in line and " DEBUG " not in line])[-3000:]


def launch(
    name: str, command: Sequence[str], folder: Path, address: str, port: int, *,
    env: dict[str, str] | None = None, seconds: float = 60, user: str | None = None,
) -> Server:  # fmt: skip
    """Start ``command`` and wait until ``address:port`` takes connections."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    wrapped = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        *(["--reuid", user, "--regid", user, "--clear-groups"] if user else []),
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*wrapped, *command], stdout=out, stderr=out, cwd=folder, env={**os.environ, **(env or {})}
        )
    server = Server(name, address, port, process, log)

    def up() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{name} ended with {process.returncode}; {log}: {_complaints(log)}")
        return listens(address, port)

    try:
        wait_until(up, seconds, f"{name} listens on {address}:{port}")
    except AssertionError:
        server.kill()
        raise
    return server


def kafka(
    folder: Path,
    address: str,
    *,
    node_id: int = 1,
    voters: dict[int, str] | None = None,
    settings: Sequence[str] = (),
) -> Server:
    """One combined broker and controller; ``voters``: address by node id, when it is one of several.

    ``settings``: more lines of server.properties.
    """
    voters = voters or {node_id: address}
    data = folder / "data"
    properties = folder / "server.properties"
    folder.mkdir(parents=True, exist_ok=True)
    copies = min(3, len(voters))
    properties.write_text(
        "\n".join(
            [
                "process.roles=broker,controller", f"node.id={node_id}",
                "controller.quorum.voters=" + ",".join(f"{n}@{a}:9093" for n, a in voters.items()),
                f"listeners=PLAINTEXT://{address}:9092,CONTROLLER://{address}:9093",
                "controller.listener.names=CONTROLLER", f"log.dirs={data}", "num.partitions=1",
                f"offsets.topic.replication.factor={copies}", "offsets.topic.num.partitions=4",
                f"transaction.state.log.replication.factor={copies}", "transaction.state.log.min.isr=1",
                "transaction.state.log.num.partitions=1", "group.initial.rebalance.delay.ms=0",
                "share.coordinator.state.topic.num.partitions=1", "auto.create.topics.enable=false", *settings,
            ]
        )
    )  # fmt: skip
    java = [
        "java",
        "-Xmx384m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        f"{JARS('kafka')}/*",
    ]
    if not (data / "meta.properties").exists():
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", "a2ludHN1Z2kta2Fma2EtMQ", "-c",
            str(properties)],
            check=True, capture_output=True,
        )  # fmt: skip
    return launch(f"kafka-{node_id}", [*java, "kafka.Kafka", str(properties)], folder, address, 9092)


def cassandra(folder: Path, address: str, *, seeds: Sequence[str] = (), heap: str = "512m") -> Server:
    """One Cassandra node; the first is its own seed."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "cassandra.yaml"
    data = folder / "data"
    provider = "org.apache.cassandra.locator.SimpleSeedProvider"
    document = {
        # A ring without data has nothing to stream, so no start can fail at its bootstrap (seen once, exit 3).
        "cluster_name": "kintsugi-test", "num_tokens": 8, "auto_bootstrap": False,
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "seed_provider": [{"class_name": provider, "parameters": [{"seeds": ",".join(seeds or [address])}]}],
        "listen_address": address, "rpc_address": address, "native_transport_port": 9042,
        "storage_port": 7000,
        "endpoint_snitch": "SimpleSnitch", "commitlog_sync": "periodic", "commitlog_sync_period": "10000ms",
        "data_file_directories": [str(data / "data")], "commitlog_directory": str(data / "commitlog"),
        "saved_caches_directory": str(data / "saved_caches"), "hints_directory": str(data / "hints"),
        "cdc_raw_directory": str(data / "cdc_raw"), "memtable_heap_space": "128MiB", "concurrent_writes": 16,
    }  # fmt: skip
    config.write_text(yaml.safe_dump(document))
    jamm = next(JARS("cassandra").glob("jamm-*.jar"))
    command = [
        "java", f"-Xms{heap}", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k",
        *JDK_OPENS, f"-javaagent:{jamm}", f"-Dcassandra.config=file://{config}",
        f"-Dcassandra.storagedir={data}",
        "-Dcassandra.ring_delay_ms=2000", "-Dcassandra.skip_wait_for_gossip_to_settle=0",
        "-Dcassandra.consistent.rangemovement=false", "-Djdk.attach.allowAttachSelf=true",
        "-Dcassandra-foreground=yes",
        "-cp", f"{JARS('cassandra')}/*", "org.apache.cassandra.service.CassandraDaemon",
    ]  # fmt: skip
    return launch(f"cassandra-{address}", command, folder, address, 9042, seconds=120)


def s3(folder: Path, address: str, port: int = 9000) -> Server:
    """S3Proxy over a directory; ``extra`` holds its keys."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    properties = folder / "s3proxy.properties"
    properties.write_text(
        "\n".join(
            [
                f"s3proxy.endpoint=http://{address}:{port}", "s3proxy.authorization=aws-v2-or-v4",
                "s3proxy.identity=kintsugi", "s3proxy.credential=kintsugi-test",
                "jclouds.provider=filesystem-nio2",
                f"jclouds.filesystem.basedir={folder / 'data'}",
            ]
        )
    )  # fmt: skip
    command = [
        "java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
        f"{JARS('s3proxy')}/*",
        "org.gaul.s3proxy.Main", "--properties", str(properties),
    ]  # fmt: skip
    server = launch("s3", command, folder, address, port)
    server.extra = {
        "access_key": "kintsugi",
        "secret_key": "kintsugi-test",
        "url": f"http://{address}:{port}",
    }
    return server


def postgres(folder: Path, address: str, port: int = 5432) -> Server:
    """Postgres with a database ``kintsugi`` (``extra["dsn"]``) and its tables; as root it runs as user postgres."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    user = "postgres" if os.geteuid() == 0 else None
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    prefix = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user else []
    if user:
        # pytest closes its directories to other users.
        for parent in folder.parents:
            if parent == Path(tempfile.gettempdir()):
                break
            parent.chmod(parent.stat().st_mode | 0o055)
        shutil.chown(folder, user, user)
    if not data.exists():
        subprocess.run(
            [*prefix, str(binaries / "initdb"), "-D", str(data), "-U", "kintsugi", "-A", "trust", "-N",
            "-E", "UTF8"],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
    command = [
        str(binaries / "postgres"),
        "-D",
        str(data),
        "-h",
        address,
        "-p",
        str(port),
        "-k",
        str(folder),
        "-F",
    ]
    server = launch("postgres", command, folder, address, port, user=user)
    create = [str(binaries / "createdb"), "-h", address, "-p", str(port), "-U", "kintsugi", "kintsugi"]
    wait_until(lambda: _creates(create), 20, "postgres creates the database")
    dsn = f"host={address} port={port} user=kintsugi dbname=kintsugi"
    Database(dsn).migrate()
    server.extra = {"dsn": dsn}
    return server


def _creates(command: list[str]) -> bool:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode == 0 or "already exists" in result.stderr


def spark_master(folder: Path, address: str) -> Server:
    return _spark(folder, "spark-master", address, 7077, ["org.apache.spark.deploy.master.Master"], "8080")


def spark_worker(folder: Path, address: str, master: str, *, memory: str, cores: int) -> Server:
    arguments = [
        "org.apache.spark.deploy.worker.Worker",
        "--memory",
        memory,
        "--cores",
        str(cores),
        "--work-dir",
        str(folder),
    ]
    return _spark(folder, f"spark-worker-{address}", address, 8081, arguments, "8081", master)


def _spark(
    folder: Path, name: str, address: str, port: int, arguments: list[str], ui: str, *rest: str
) -> Server:
    program = Path(sys.executable).with_name("spark-class")
    options = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dspark.worker.timeout=10"
    env = {"SPARK_LOCAL_IP": address, "SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": options,
           "PYSPARK_PYTHON": sys.executable, "SPARK_NO_DAEMONIZE": "1"}  # fmt: skip
    command = [str(program), *arguments, "--host", address, "--webui-port", ui, *rest]
    return launch(name, command, folder, address, port, env=env)


def stop_all(servers: Sequence[Server]) -> None:
    """Stop them all, the last started first: first a signal to each, then wait for each."""
    for server in reversed(servers):
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
    for server in reversed(servers):
        server.stop()

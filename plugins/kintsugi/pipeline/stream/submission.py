"""The command that starts the streaming driver, and all its flags.

The supervisor of the driver's node starts it with these flags, and Airflow's `StreamSubmitOperator` shows them.

The cluster needs workers with ``WORKER_CORES`` and ``WORKER_MEMORY``, so that exactly one executor of the stream and
one of a batch job fit on each. The memory prevents a second executor of the stream on a worker. So when a worker dies,
its executor waits for the recovered worker and doesn't move to the other one.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kintsugi.core.errors import PreflightError

APPLICATION = "stream_trades"
EXECUTOR_CORES = 1
EXECUTOR_MEMORY = "768m"
BATCH_EXECUTOR_MEMORY = "512m"
WORKER_CORES = 2
WORKER_MEMORY = "1280m"
DRIVER_MEMORY = "512m"
JVM_FLAGS = "-XX:+UseSerialGC -Xss512k"
QUICK_COMPILER = "-XX:TieredStopAtLevel=1"
# The optimising compiler with twenty times its default thresholds: it doesn't delay the start, and compiles later.
LATE_COMPILER = (
    "-XX:Tier4InvocationThreshold=100000 -XX:Tier4MinInvocationThreshold=12000 "
    "-XX:Tier4CompileThreshold=300000 -XX:Tier4BackEdgeThreshold=800000"
)
JARS = (
    "spark-sql-kafka-0-10_2.13-",
    "spark-token-provider-kafka-0-10_2.13-",
    "kafka-clients-",
    "commons-pool2-",
)

CONFIGURATION = {
    # Latency: no checksum file beside each checkpoint file, plain renames, no waiting for a data-local executor.
    "spark.sql.streaming.checkpoint.fileChecksum.enabled": "false",
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
    "spark.locality.wait": "0s",
    "spark.log.level": "WARN",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    # Failures: a silent executor is dropped within seconds; a task may fail while a replica is replaced.
    "spark.executor.heartbeatInterval": "2s",
    "spark.network.timeout": "15s",
    "spark.network.timeoutInterval": "5s",
    "spark.task.maxFailures": "8",
    # Limited memory for a driver that runs for months.
    "spark.ui.retainedJobs": "50",
    "spark.ui.retainedStages": "50",
    "spark.ui.retainedTasks": "500",
    "spark.sql.ui.retainedExecutions": "20",
    "spark.sql.streaming.minBatchesToRetain": "20",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "5000",
    "spark.driver.extraJavaOptions": f"{JVM_FLAGS} {LATE_COMPILER}",
    "spark.executor.extraJavaOptions": f"{JVM_FLAGS} {LATE_COMPILER}",
}
# For a short batch job that shares the workers with the stream.
BATCH_CONFIGURATION = {
    "spark.log.level": "WARN",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.enabled": "false",
    "spark.driver.extraJavaOptions": f"{JVM_FLAGS} {QUICK_COMPILER}",
    "spark.executor.extraJavaOptions": f"{JVM_FLAGS} {QUICK_COMPILER}",
}


def list_driver_files() -> list[str]:
    """Return what the streaming driver and the executors need of this package, as patterns relative to it.

    It is the one list of them: a release contains these files, and the role `spark` copies them to the driver's node.
    A new module of the pipeline is covered; what it imports from outside the pipeline must be added.
    """
    return Path(__file__).with_name("driver_files.txt").read_text().split()


def write_package(target: Path) -> Path:
    """Write the files of `list_driver_files` to the zip file ``target``, for ``--py-files``; returns its path.

    The same sources make the same bytes, so that a release has a stable digest.
    """
    source = Path(__file__).resolve().parents[2]
    files = [file for pattern in list_driver_files() for file in sorted(source.glob(pattern))]
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with zipfile.ZipFile(temporary, "w") as archive:
        for file in files:
            name = f"kintsugi/{file.relative_to(source).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), file.read_bytes())
    temporary.replace(target)
    return target


def build_submission(
    *,
    driver_host: str,
    bootstrap: list[str],
    contact_points: list[str],
    checkpoint: Path,
    application: Path,
    jars: Iterable[Path] = (),
    py_files: Path | None = None,
    trigger_ms: int = 250,
) -> dict[str, Any]:
    """Return the submission of the streaming driver, as arguments of Airflow's SparkSubmitOperator.

    ``driver_host``: the driver's own node, to which the executors connect. ``bootstrap``: ``address:port`` of the Kafka
    brokers. ``contact_points``: addresses of the Cassandra nodes. ``application``: ``spark_apps/stream_trades.py``.
    ``jars``: Spark's connector jars, from `connector_jars`. ``py_files``: the zip file of
    `write_package`; without it the executors' Python must be able to import ``kintsugi``.
    """
    return {
        "application": str(application),
        "application_args": [
            "--bootstrap", ",".join(bootstrap), "--contact-points", ",".join(contact_points),
            "--checkpoint", str(checkpoint), "--trigger-ms", str(trigger_ms),
        ],
        "name": APPLICATION,
        "deploy_mode": "client",
        "driver_memory": DRIVER_MEMORY,
        "executor_memory": EXECUTOR_MEMORY,
        "executor_cores": EXECUTOR_CORES,
        "jars": ",".join(str(jar) for jar in jars),
        "py_files": str(py_files) if py_files else None,
        "conf": {**CONFIGURATION, "spark.driver.host": driver_host, "spark.driver.bindAddress": driver_host},
    }  # fmt: skip


def submit_command(
    *, master: str, jars: Path, spark_submit: Path | None = None, **arguments: Any
) -> list[str]:
    """Build the command that runs the streaming driver on the driver's own host.

    ``arguments``: those of `build_submission`. ``master``: ``spark://address:7077``. ``jars``: the folder of Spark's
    connector jars. ``spark_submit``: default: the one beside the running Python.

    The environment must hold ``PYSPARK_PYTHON`` (with the packages of requirements.txt) and
    ``SPARK_LOCAL_IP`` (``driver_host``). Raises PreflightError when a jar is missing.
    """
    options = build_submission(jars=connector_jars(jars), **arguments)
    application, application_args = options.pop("application"), options.pop("application_args")
    configuration = options.pop("conf")
    command = [str(spark_submit or Path(sys.executable).with_name("spark-submit")), "--master", master]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    for key, value in configuration.items():
        command += ["--conf", f"{key}={value}"]
    return [*command, application, *application_args]


def connector_jars(folder: Path) -> list[Path]:
    """Return the jars that pyspark lacks, one of each; raises PreflightError when one is missing."""
    newest = []
    for prefix in JARS:
        jars = sorted(folder.glob(f"{prefix}*.jar"))
        if not jars:
            raise PreflightError(f"no {prefix}*.jar in {folder}; fetch the artifacts again")
        newest.append(jars[-1])
    return newest


def main(arguments: list[str] | None = None) -> None:
    """Replace this process by spark-submit with these flags, or ``--print`` them.

    ``python -m kintsugi.pipeline.stream.submission``
    """
    parser = argparse.ArgumentParser(prog="kintsugi.pipeline.stream.submission", description=main.__doc__)
    parser.add_argument("--master", required=True, help="spark://address:7077")
    parser.add_argument("--driver-host", required=True, help="this node's address")
    parser.add_argument(
        "--bootstrap", required=True, help="comma-separated address:port of the Kafka brokers"
    )
    parser.add_argument(
        "--contact-points", required=True, help="comma-separated addresses of Cassandra nodes"
    )
    parser.add_argument("--checkpoint", required=True, type=Path)
    parser.add_argument("--jars", required=True, type=Path, help="folder of the connector jars")
    parser.add_argument("--application", required=True, type=Path, help="path of spark_apps/stream_trades.py")
    parser.add_argument("--py-files", type=Path, help="where to write the zip of kintsugi for the executors")
    parser.add_argument("--trigger-ms", type=int, default=250)
    parser.add_argument("--print", action="store_true", help="print the command instead of running it")
    options = parser.parse_args(arguments)
    if options.py_files:  # always written again, so that it is never the zip of an earlier release
        write_package(options.py_files)
    command = submit_command(
        master=options.master, driver_host=options.driver_host, bootstrap=options.bootstrap.split(","),
        contact_points=options.contact_points.split(","), checkpoint=options.checkpoint, jars=options.jars,
        application=options.application, py_files=options.py_files, trigger_ms=options.trigger_ms,
    )  # fmt: skip
    if options.print:
        print(shlex.join(command))
        return
    environment = {"PYSPARK_PYTHON": sys.executable, **os.environ, "SPARK_LOCAL_IP": options.driver_host}
    os.execve(command[0], command, environment)  # noqa: S606 - a list, no shell


if __name__ == "__main__":
    main()

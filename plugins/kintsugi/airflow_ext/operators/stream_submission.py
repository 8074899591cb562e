"""The submission of the streaming job, as an operator of Airflow's Spark provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator

from kintsugi.core.fleet import Role
from kintsugi.core.settings import KAFKA_PORT, Settings, load_settings
from kintsugi.pipeline.stream.submission import build_submission, connector_jars

if TYPE_CHECKING:
    from airflow.sdk import Context


class StreamSubmitOperator(SparkSubmitOperator):
    """Builds the submission of the streaming job, and lets the init of the Spark master's node run it.

    1. Its fields are those of a SparkSubmitOperator; the master comes from the connection ``kintsugi_spark``.
    2. The provider's hook builds the ``spark-submit`` command, and the task's log shows it.
    3. The command does not run as a child of the task: the driver must outlive Airflow. The node's init holds the same
       submission (`kintsugi.pipeline.stream.submission`); it is told to start it, and starts it again whenever it ends.

    The result is what the init did, as a sentence. Retries are safe: a driver that runs is left alone.
    """

    def __init__(self, *, conn_id: str = "kintsugi_spark", **kwargs: Any) -> None:
        super().__init__(conn_id=conn_id, **installed_submission(load_settings()), **kwargs)

    def execute(self, context: Context) -> str:  # type: ignore[override]  # the parent gives no result
        """Show the submission, declare that the stream shall run, and start its driver unless it runs."""
        from kintsugi.operations import stream_driver  # parse time: a DAG file doesn't need it
        from kintsugi.operations.context import Context as RecoveryContext  # parse time

        self.jars = ",".join(str(jar) for jar in connector_jars(load_settings().jars("spark")))
        self._get_hook()._build_spark_submit_command(self.application)  # noqa: SLF001 - the hook logs it
        return stream_driver.submit_driver(RecoveryContext.from_environment())

    def on_kill(self) -> None:
        """Nothing: the driver is no child of this task."""


def installed_submission(settings: Settings) -> dict[str, Any]:
    """The arguments of the operator for this installation: the paths are those of the Spark master's node.

    The jars are missing here: looking for them reads the disk, which a DAG file doesn't do while it is parsed.
    """
    fleet = settings.fleet
    node = fleet.of(Role.SPARK_MASTER)[0]
    root = settings.node_root(node.name)
    return build_submission(
        driver_host=node.address,
        bootstrap=fleet.endpoints(Role.KAFKA, KAFKA_PORT),
        contact_points=[one.address for one in fleet.of(Role.CASSANDRA)],
        checkpoint=settings.node_volume(node.name) / "data" / "checkpoint",
        application=root / "lib" / "spark_apps" / "stream_trades.py",
        py_files=root / "run" / "kintsugi.zip",
    )

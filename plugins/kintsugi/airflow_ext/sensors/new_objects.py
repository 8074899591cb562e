"""Wait for new files in S3.

Airflow's S3KeySensor answers "is there an object of this name?"; after the first file the answer is always yes. An
ingest must start for an object that is not ingested yet, which only the ledger knows. So there is this sensor. It scans
every bucket (`connections.data_sources`) by the rule of the ingest.
"""

from __future__ import annotations

from typing import Any, NoReturn

from airflow.sdk import BaseSensorOperator, Context

from kintsugi.airflow_ext.triggers.new_objects import NewObjectsTrigger


class NewObjectsSensor(BaseSensorOperator):
    """Defers at once until there is a file that is not ingested; returns the keys. Holds no worker slot.

    ``kind``: ``trades`` or ``eod``. ``interval``: seconds between two scans.
    """

    def __init__(self, *, kind: str, interval: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.interval = interval

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        self.defer(
            trigger=NewObjectsTrigger(kind=self.kind, interval=self.interval), method_name="execute_complete"
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[str]:
        """Resume with the trigger's event; returns the keys."""
        keys: list[str] = event["keys"]
        self.log.info("new: %s", ", ".join(keys[:20]) + (" …" if len(keys) > 20 else ""))
        return keys

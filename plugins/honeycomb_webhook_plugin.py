"""Registers Honeycomb's trigger webhook with Airflow's api-server, below ``/honeycomb``."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from kintsugi.telemetry.webhook import LazyApp


class HoneycombWebhookPlugin(AirflowPlugin):
    """``POST /honeycomb/trigger``: see kintsugi.telemetry.webhook."""

    name = "honeycomb_webhook"
    fastapi_apps = [  # noqa: RUF012 - as Airflow declares it
        {"app": LazyApp(), "url_prefix": "/honeycomb", "name": "Honeycomb webhook"}
    ]

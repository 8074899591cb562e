"""Registers Honeycomb's trigger webhook with Airflow's api-server, below ``/honeycomb``."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from kintsugi.airflow_ext.lazy_asgi_app import LazyAsgiApp


class HoneycombWebhookPlugin(AirflowPlugin):
    """``POST /honeycomb/trigger``: see kintsugi.telemetry.webhook."""

    name = "honeycomb_webhook"
    fastapi_apps = [  # noqa: RUF012 - as Airflow declares it
        {
            "app": LazyAsgiApp("kintsugi.telemetry.webhook:create_installed_app"),
            "url_prefix": "/honeycomb",
            "name": "Honeycomb webhook",
        }
    ]

"""Adds Pipeline Health to Airflow's navigation."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from kintsugi.airflow_ext.lazy_asgi_app import LazyAsgiApp
from kintsugi.web.mount import PREFIX


class PipelineHealthPlugin(AirflowPlugin):
    """Mounts the page and puts it into the navigation."""

    name = "pipeline_health"
    fastapi_apps = [  # noqa: RUF012
        {
            "app": LazyAsgiApp("kintsugi.web.real_page:real_page"),
            "url_prefix": PREFIX,
            "name": "Pipeline Health",
        }
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Pipeline Health",
            "href": f"{PREFIX}/",
            "url_route": "pipeline-health",
            "destination": "nav",
            "nav_top_level": True,
            "icon": f"{PREFIX}/static/icon.svg",
            "icon_dark_mode": f"{PREFIX}/static/icon-dark.svg",
        }
    ]

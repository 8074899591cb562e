"""Adds Pipeline Health to Airflow's navigation."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from kintsugi.web.mount import PREFIX, LatePage


class PipelineHealthPlugin(AirflowPlugin):
    """Mounts the page and puts it into the navigation."""

    name = "pipeline_health"
    fastapi_apps = [{"app": LatePage(), "url_prefix": PREFIX, "name": "Pipeline Health"}]  # noqa: RUF012
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

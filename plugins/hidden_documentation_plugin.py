"""Hides the documentation of Airflow's APIs, which would be answered to users who have not signed in."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from kintsugi.web.documentation import HideDocumentation


class HiddenDocumentationPlugin(AirflowPlugin):
    """Puts `kintsugi.web.documentation.HideDocumentation` around the api-server."""

    name = "hidden_documentation"
    fastapi_root_middlewares = [  # noqa: RUF012 - as Airflow declares it
        {"middleware": HideDocumentation, "name": "Hidden documentation"}
    ]

"""Where Airflow mounts the page."""

PREFIX = "/pipeline-health"

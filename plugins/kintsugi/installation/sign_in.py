"""The sign-in to Airflow."""

from __future__ import annotations

import sys

from kintsugi.controlplane.airflow_environment import ADMIN, ADMIN_PASSWORD
from kintsugi.core.settings import Settings


def sign_in_text(settings: Settings) -> str:
    """Return how to sign in to Airflow; the password itself only on a terminal, never in a log."""
    plane = settings.fleet.control_plane
    path = settings.secrets / ADMIN_PASSWORD
    password = settings.secret(ADMIN_PASSWORD) if sys.stdout.isatty() else f"in {path}"
    return f"Airflow: http://{plane.address}:{plane.airflow_port}   user: {ADMIN}   password: {password}"

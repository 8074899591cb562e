"""The sign-in to Airflow."""

from __future__ import annotations

import sys

from kintsugi.controlplane import accounts
from kintsugi.controlplane.airflow_environment import has_own_accounts
from kintsugi.core.settings import Settings


def sign_in_text(settings: Settings) -> str:
    """Return how to sign in to Airflow; a password itself only for a single user on a terminal, never in a log."""
    plane = settings.fleet.control_plane
    url = f"Airflow: http://{plane.address}:{plane.airflow_port}"
    if not has_own_accounts():
        return f"{url}   sign in as its auth manager asks you to"
    users = accounts.recorded_accounts(settings)
    if len(users) == 1:
        (name,) = users
        return f"{url}   user: {name}   password: {password_text(settings, name)}"
    names = ", ".join(f"{name} ({role})" for name, role in users.items())
    return f"{url}   users: {names}\nthe password of a user: kintsugi user-password NAME"


def password_text(settings: Settings, user: str) -> str:
    """Return the user's password on a terminal, else where it is; raises InputError for an unknown user."""
    path = accounts.password_file(settings, user)
    return settings.secret(path.name) if sys.stdout.isatty() else f"in {path}"

"""The accounts of Airflow's SimpleAuthManager: who may sign in, with which role and password.

The users of `KINTSUGI_USERS` are recorded in ``control/airflow/users``. A later start without the variable keeps them:
to forget it in one shell must neither lock anybody out nor let anybody in. Each user has a secret of his own, his
password. ``control/airflow/passwords.json`` holds the passwords in the form that Airflow reads at each sign-in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.core.errors import InputError
from kintsugi.core.files import write_private
from kintsugi.core.settings import replace_secret
from kintsugi.core.users import FALLBACK, USERS, UserRole, first_admin, format_users, parse_users

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

AIRFLOW_ROLES = {UserRole.VIEWER: "viewer", UserRole.OPERATOR: "user", UserRole.ADMIN: "admin"}
"""An operator acts on DAGs. Airflow's ``op`` may also change connections and variables: where trades come from."""

_PREFIX = "airflow-user-"
_FIRST_PASSWORD = "airflow-admin"  # noqa: S105 - the name of the secret: the only password of version 0.1


def load_accounts(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, UserRole]:
    """Return the users: those of the setting, else those recorded, else the first admin. Changes nothing.

    An installation of version 0.1 has no record, but the password of ``admin``, who stays. Raises PreflightError for a
    wrong setting.
    """
    if setting := environment.get(USERS, "").strip():
        return parse_users(setting)
    record = _record_file(settings)
    if record.exists():
        return parse_users(record.read_text())
    name = FALLBACK if (settings.secrets / _FIRST_PASSWORD).exists() else first_admin(environment)
    return {name: UserRole.ADMIN}


def recorded_accounts(settings: Settings) -> dict[str, UserRole]:
    """Return the users as the last start recorded them."""
    return load_accounts(settings, {name: value for name, value in os.environ.items() if name != USERS})


def apply_accounts(settings: Settings, environment: Mapping[str, str] = os.environ) -> bool:
    """Record the users, give a new one a password, and delete the password of one who is gone.

    Returns whether the users or their roles changed.
    """
    users = load_accounts(settings, environment)
    _write_passwords(settings, users)
    kept = {password_name(name) for name in users}
    for path in (*settings.secrets.glob(f"{_PREFIX}*"), settings.secrets / _FIRST_PASSWORD):
        if path.name not in kept:
            path.unlink(missing_ok=True)
    record, text = _record_file(settings), format_users(users)
    if record.exists() and record.read_text() == text:
        return False
    write_private(record, text)
    return True


def password_name(user: str) -> str:
    """Return the name of the secret that is the user's password; that of ``admin`` is as in version 0.1."""
    return _FIRST_PASSWORD if user == FALLBACK else f"{_PREFIX}{user}"


def password_file(settings: Settings, user: str) -> Path:
    """Return the file of the user's password, 0600; raises InputError for a user whom the installation doesn't have."""
    users = recorded_accounts(settings)
    if user not in users:
        raise InputError(
            f"there is no user {user!r}; the users are: {', '.join(users)}; {USERS} names them, `make up` applies it"
        )
    return settings.secrets / password_name(user)


def renew_password(settings: Settings, user: str) -> None:
    """Make a new password for the user. Airflow takes it at once, and ends the user's sessions."""
    replace_secret(settings, password_file(settings, user).name)
    _write_passwords(settings, recorded_accounts(settings))


def passwords_file(settings: Settings) -> Path:
    """Return the file from which Airflow reads the passwords; 0600."""
    return settings.control / "airflow" / "passwords.json"


def _record_file(settings: Settings) -> Path:
    return settings.control / "airflow" / "users"


def airflow_users(users: Mapping[str, UserRole]) -> str:
    """Return the users in the form of Airflow's option ``simple_auth_manager_users``."""
    return ",".join(f"{name}:{AIRFLOW_ROLES[role]}" for name, role in users.items())


def _write_passwords(settings: Settings, users: Mapping[str, UserRole]) -> None:
    passwords = {name: settings.secret(password_name(name)) for name in users}
    path = passwords_file(settings)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps(passwords) + "\n")

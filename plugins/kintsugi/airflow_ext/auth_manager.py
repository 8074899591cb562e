"""Airflow's SimpleAuthManager, except that a session ends with the user's access.

The original believes a token's name and role until the token ends, a day later, whatever the configuration says by
then. This one looks the user up at each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

from kintsugi.controlplane.accounts import password_name
from kintsugi.core.settings import load_settings
from kintsugi.core.users import is_reserved_name

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser


class AccountsAuthManager(SimpleAuthManager):
    """Signs in the users of `KINTSUGI_USERS`, and knows the actors that are no users and have no password."""

    def deserialize_user(self, token: dict[str, Any]) -> SimpleAuthManagerUser:
        """Return the user with the role of today.

        Raises ValueError, which Airflow answers with 403, for a user who is gone, and for a token that is older than
        the user's password.
        """
        user = super().deserialize_user(token)
        if is_reserved_name(user.username):
            return user
        current = {one.username: one for one in self.get_users()}.get(user.username)
        if current is None:
            raise ValueError(f"{user.username} is no user of this installation")
        if token["iat"] < _password_made_at(user.username):
            raise ValueError(f"{user.username} has a new password since this sign-in")
        return current


def _password_made_at(user: str) -> int:
    """Return the time of the user's password, in whole seconds as in a token; raises ValueError without one."""
    path = load_settings().secrets / password_name(user)
    try:
        return int(path.stat().st_mtime)
    except FileNotFoundError as error:
        raise ValueError(f"{user} has no password") from error

"""Airflow's own keys: of what it stores encrypted (Fernet), of the tokens that it signs (JWT), of our page's forms.

The file of the Fernet key has one key a line. The first encrypts, and all decrypt. It has a second one only while
`kintsugi.installation.airflow_key_rotation` is under way. Airflow reads its keys at its start, so nothing here may be
called while it runs, except `key_environment`.
"""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING

from kintsugi.core.files import write_private
from kintsugi.core.settings import PAGE_FORMS_SECRET, replace_secret

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

# Names of secrets, not their values.
JWT_SECRET = "airflow-jwt"  # noqa: S105
_FERNET_SECRET = "airflow-fernet"  # noqa: S105
_FERNET_KEYS = 2  # the one that encrypts, and the one that is replaced


def key_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give Airflow its keys; they are made at first use."""
    return {
        "AIRFLOW__CORE__FERNET_KEY": ",".join(map(_as_fernet_key, _fernet_secrets(settings))),
        "AIRFLOW__API_AUTH__JWT_SECRET": settings.secret(JWT_SECRET),
    }


def replace_token_keys(settings: Settings, *, jwt: bool = True) -> None:
    """Make new keys of tokens and forms; the tokens and forms of before are refused. ``jwt``: the key of tokens too."""
    if jwt:
        replace_secret(settings, JWT_SECRET)
    replace_secret(settings, PAGE_FORMS_SECRET)


def add_fernet_key(settings: Settings) -> None:
    """Make the Fernet key that encrypts from now on, and keep the present one; does nothing if there are two."""
    present = _fernet_secrets(settings)
    if len(present) < _FERNET_KEYS:
        write_private(settings.secrets / _FERNET_SECRET, "\n".join([secrets.token_hex(32), *present]))


def drop_old_fernet_key(settings: Settings) -> None:
    """Drop the Fernet key that was replaced; the caller knows that nothing is encrypted with it any more."""
    write_private(settings.secrets / _FERNET_SECRET, _fernet_secrets(settings)[0])


def _fernet_secrets(settings: Settings) -> list[str]:
    return settings.secret(_FERNET_SECRET).split()


def _as_fernet_key(secret: str) -> str:
    # Fernet needs 32 bytes in URL-safe base64; our secrets are 32 bytes in hex.
    return base64.urlsafe_b64encode(bytes.fromhex(secret)).decode()

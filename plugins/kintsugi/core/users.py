"""The users of an installation, and the actor in whose name a process acts.

``KINTSUGI_USERS="ana:admin,ben:operator,eve:viewer"`` names the users and their roles. Audits name one of three actors:

1. a user (``ana``): what a person did, signed in to Airflow;
2. a person of the operating system (``ana (command line)``): what a command did;
3. the control plane (``kintsugi``): what its own processes did.

No user can have a name of the second or third kind.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from enum import StrEnum

from kintsugi.core.errors import PreflightError
from kintsugi.core.processes import MARKER

USERS = "KINTSUGI_USERS"
CONTROL_PLANE = "kintsugi"
FALLBACK = "admin"
_COMMAND_LINE = " (command line)"
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}\Z", re.ASCII)
"""A name becomes a part of Airflow's configuration, of the name of a file and of sentences in audits."""


class UserRole(StrEnum):
    """What a user may do: look; act on the pipeline; configure Airflow too."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


def parse_users(text: str) -> dict[str, UserRole]:
    """Return the role of each user in ``name:role,name:role``.

    Raises PreflightError, which names the entry at fault.
    """
    users: dict[str, UserRole] = {}
    for entry in text.split(","):
        name, separator, role = (part.strip() for part in entry.partition(":"))
        if not separator or not role:
            raise PreflightError(
                f"{USERS}: {_shown(entry)} is not <name>:<role>, as in ana:admin,ben:operator"
            )
        if not _NAME.match(name):
            raise PreflightError(
                f"{USERS}: a name has 1 to 32 lower-case letters, digits, dots, dashes and underscores, and begins "
                f"with a letter: not {_shown(name)}"
            )
        if name == CONTROL_PLANE:
            raise PreflightError(
                f"{USERS}: {CONTROL_PLANE} is the name of the control plane itself; choose another one"
            )
        if name in users:
            raise PreflightError(f"{USERS} names {name} twice")
        if role not in set(UserRole):
            raise PreflightError(
                f"{USERS}: the role of {name} must be one of {', '.join(UserRole)}, not {_shown(role)}"
            )
        users[name] = UserRole(role)
    if UserRole.ADMIN not in users.values():
        raise PreflightError(f"{USERS} names no admin: give one user the role admin")
    return users


def format_users(users: Mapping[str, UserRole]) -> str:
    """Return users as `parse_users` reads them."""
    return ",".join(f"{name}:{role}" for name, role in users.items())


def operating_user(environment: Mapping[str, str] = os.environ) -> str:
    """Return the name of the operating system's user who runs this process; under ``sudo``, of who called it.

    The kernel knows the user. ``SUDO_USER`` counts for root only: everybody can set a variable.
    """
    uid = os.getuid()
    if uid == 0 and (caller := environment.get("SUDO_USER")):
        return caller
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def first_admin(environment: Mapping[str, str] = os.environ) -> str:
    """Return the name of the admin that a first start without a setting makes: the person who runs it.

    ``admin`` where no person can be told: for root, the control plane's own name, and a name that isn't allowed.
    """
    name = operating_user(environment).lower()
    return name if _NAME.match(name) and name not in ("root", CONTROL_PLANE) else FALLBACK


def current_actor(environment: Mapping[str, str] = os.environ) -> str:
    """Return in whose name this process acts: the control plane, or a person on the command line."""
    return CONTROL_PLANE if MARKER in environment else f"{operating_user(environment)}{_COMMAND_LINE}"


def actor_of_run(run: object) -> str:
    """Return the user who started a run of Airflow by hand; ``somebody`` where Airflow names none."""
    return getattr(run, "triggering_user_name", None) or "somebody"


def is_reserved_name(name: str) -> bool:
    """Whether ``name`` is an actor's that is no user: the control plane, or a person on the command line."""
    return name == CONTROL_PLANE or name.endswith(_COMMAND_LINE)


def _shown(text: str) -> str:
    return repr(text.strip())[:80]

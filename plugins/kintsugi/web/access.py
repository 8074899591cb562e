"""Who may look and who may act: Airflow decides. Also checks that an action was sent by our own page.

Airflow mounts a plugin's application without authentication, so every route depends on `reader` here.
An action needs four things: a signed-in user, Airflow's permission, a request from our own origin, and a
token from a page made for this user (OWASP, "Cross-Site Request Forgery Prevention").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from itsdangerous import BadSignature, URLSafeTimedSerializer

if TYPE_CHECKING:
    from kintsugi.web.actions import Request as AirflowRequest

TOKEN_S = 12 * 3600


class User(Protocol):
    """The part of Airflow's user that the page needs."""

    def get_id(self) -> str: ...

    def get_name(self) -> str: ...


class Authorizer(Protocol):
    """Airflow's auth manager as the page sees it."""

    reader: Callable[..., Any]
    """A FastAPI dependency: the signed-in user, or 401, or 403 when they may not read DAGs."""

    def may(self, user: Any, wanted: AirflowRequest) -> bool:
        """Whether Airflow would let ``user`` do this."""


class AirflowAuthorizer:
    """The auth manager of the Airflow that runs in this process."""

    def __init__(self) -> None:
        from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag

        can_read = requires_access_dag("GET")

        def reader(request: Request, user: GetUserDep) -> Any:
            can_read(request, user)
            return user

        # Annotations are strings here, and FastAPI would look for the local name in the module.
        reader.__annotations__ = {"request": Request, "user": GetUserDep, "return": Any}
        self.reader = reader

    def may(self, user: Any, wanted: AirflowRequest) -> bool:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails

        needs: dict[str, tuple[Any, DagAccessEntity | None]] = {
            "run": ("POST", DagAccessEntity.RUN),
            "dag": ("PUT", None),
            "decision": ("PUT", DagAccessEntity.HITL_DETAIL),
        }
        method, entity = needs[wanted.right]
        details = DagDetails(id=wanted.dag_id)
        return get_auth_manager().is_authorized_dag(
            method=method, access_entity=entity, details=details, user=user
        )


class Tokens:
    """Tokens of the page's forms: signed with our secret, bound to a user, good for twelve hours."""

    def __init__(self, secret: str) -> None:
        # The salt keeps its old name, so that a form that is open during an update stays valid.
        self._signer = URLSafeTimedSerializer(secret, salt="kintsugi.web.deeds")

    def make(self, user: User) -> str:
        return str(self._signer.dumps(str(user.get_id())))

    def check(self, token: str, user: User) -> None:
        """Raise HTTPException 403 unless ``token`` was made for ``user`` within the last twelve hours."""
        try:
            owner = self._signer.loads(token, max_age=TOKEN_S)
        except BadSignature as error:
            raise HTTPException(
                403, "This form is not valid any more. Reload the page and try again."
            ) from error
        if owner != str(user.get_id()):
            raise HTTPException(403, "This form was made for another user. Reload the page and try again.")


def same_origin(request: Request) -> None:
    """Raise HTTPException 403 unless the browser says that our own page sent this request.

    Browsers send Sec-Fetch-Site, or Origin if they don't know it. A client that sends neither is not a browser; the
    error refers it to Airflow's REST API.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is None and origin is None:
        raise HTTPException(
            403, "Only browsers may use this page. Programs use Airflow's REST API (/api/v2)."
        )
    if site not in (None, "same-origin"):
        raise HTTPException(403, f"A {site} request is not allowed to act.")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, f"A request from {origin} is not allowed to act.")

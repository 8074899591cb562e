"""A human's yes or no to a repair that a guard refused, under "required actions" in Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLBranchOperator

from kintsugi.recovery.guard_model import APPROVE

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVED_BY = "approved_by"


class RepairApproval(HITLBranchOperator):
    """Branches like its parent, and remembers who approved: XCom ``approved_by``, a user's name.

    The parent's own result is the tasks to go on with; the journal wants the person.
    """

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Push the name of the user who approved, then branch; nothing is pushed for a refusal or a time-out."""
        if event.get("chosen_options") == [APPROVE]:
            user = event.get("responded_by_user") or {}
            context["ti"].xcom_push(key=APPROVED_BY, value=user.get("name") or "a person")
        return super().execute_complete(context, event)

"""Encrypt anew what Airflow has stored: ``python -m kintsugi.controlplane.airflow_encryption``, in its environment.

It does what `airflow rotate-fernet-key` does, except for the arguments of a trigger that are stored in clear. A task
that defers stores them so, and each of them ends the command of Airflow 3.3 with InvalidToken.
"""

from __future__ import annotations

from typing import Any


def encrypt_all_anew() -> int:
    """Encrypt every secret with the first Fernet key, in one transaction; returns the number of rows.

    Raises InvalidToken if a row was encrypted with none of the keys; then nothing has changed.
    """
    from airflow.models import Connection, Trigger, Variable
    from airflow.models.connection_test import ConnectionTestRequest
    from airflow.utils.session import create_session
    from sqlalchemy import select

    encrypted: tuple[tuple[Any, Any], ...] = (
        (Connection, Connection.is_encrypted | Connection.is_extra_encrypted),
        (Variable, Variable.is_encrypted),
        (
            ConnectionTestRequest,
            ConnectionTestRequest.is_encrypted | ConnectionTestRequest.is_extra_encrypted,
        ),
        (Trigger, ~Trigger.encrypted_kwargs.startswith("{")),
    )
    rows = 0
    with create_session() as session:
        for model, is_encrypted in encrypted:
            for row in session.scalars(select(model).where(is_encrypted)):
                row.rotate_fernet_key()
                rows += 1
    return rows


if __name__ == "__main__":
    print(f"encrypted with the new key: {encrypt_all_anew()} rows")

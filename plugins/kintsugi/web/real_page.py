"""The page with its real dependencies."""

from __future__ import annotations

from typing import Any

from kintsugi.core.connections import store_dsn
from kintsugi.core.settings import load_settings
from kintsugi.db.dashboard import Listing
from kintsugi.db.store import Store
from kintsugi.web import airflow_api, sources
from kintsugi.web.access import AirflowGate
from kintsugi.web.app import Doors, create_app
from kintsugi.web.polling_cache import Hub


def real_page() -> Any:
    """The page on this installation's store, S3, fleet and Airflow."""
    settings = load_settings()
    return create_app(
        Doors(
            settings=settings,
            gate=AirflowGate(),
            hub=Hub(sources.of(settings)),
            send=airflow_api.send,
            listing=lambda: Listing(store_dsn(settings)),
            store=lambda: Store(store_dsn(settings)),
        )
    )

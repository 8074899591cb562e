"""Three Kafka brokers and three Cassandra nodes, without Spark and Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kintsugi.core.connections import store_dsn
from kintsugi.core.settings import Settings
from kintsugi.db.store import Store
from kintsugi.environments.local import node as nodes
from kintsugi.infra.terraform import Terraform
from kintsugi.operations.context import Context
from kintsugi.pipeline.schema import ensure_topics_and_tables
from kintsugi.releases import bootstrap
from tests.installations import installation, open_directory
from tests.integration.test_fleet_heal import postgres


def small_installation(directory: Path) -> Settings:
    """The fleet without Spark."""
    made = installation(directory, "127.43")
    document = yaml.safe_load(made.fleet_file.read_text())
    document["nodes"] = [node for node in document["nodes"] if node["role"] in ("kafka", "cassandra")]
    made.fleet_file.write_text(yaml.safe_dump(document, sort_keys=False))
    return made


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with open_directory() as directory:
        settings = small_installation(directory)
        try:
            with postgres(settings):
                context = Context(settings, settings.fleet, Store(store_dsn(settings)))
                context.store.migrate()
                Terraform(settings).apply_all()
                bootstrap.start_fleet(context)
                ensure_topics_and_tables(settings.fleet)
                print(bootstrap.mark_first_known_good(context))
                yield context
        finally:
            for node in settings.fleet:
                nodes.destroy_node(settings, node.name)

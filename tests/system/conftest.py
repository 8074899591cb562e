"""Real fleets without Airflow: three Kafka brokers, and three Cassandra nodes beside them if wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from kintsugi.core.connections import store_dsn
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.db.store import Store
from kintsugi.environments.local import node as nodes
from kintsugi.infra.terraform import Terraform
from kintsugi.operations.context import Context
from kintsugi.pipeline.schema import ensure_topics_and_tables
from kintsugi.releases import bootstrap
from tests.installations import installation, open_directory
from tests.integration.test_fleet_heal import postgres

KAFKA_AND_CASSANDRA = ("kafka", "cassandra")


def small_installation(
    directory: Path, network: str = "127.43", roles: Collection[str] = KAFKA_AND_CASSANDRA
) -> Settings:
    """A fleet of these roles only."""
    made = installation(directory, network)
    document = yaml.safe_load(made.fleet_file.read_text())
    document["nodes"] = [node for node in document["nodes"] if node["role"] in roles]
    made.fleet_file.write_text(yaml.safe_dump(document, sort_keys=False))
    return made


@contextmanager
def serving_fleet(network: str, roles: Collection[str]) -> Iterator[Context]:
    """A fleet of these roles that serves and whose release is known-good; destroyed at the end of the block."""
    with open_directory() as directory:
        settings = small_installation(directory, network, roles)
        try:
            with postgres(settings):
                context = Context(settings, settings.fleet, Store(store_dsn(settings)))
                context.store.migrate()
                Terraform(settings).apply_all()
                bootstrap.start_fleet(context)
                if settings.fleet.of(Role.CASSANDRA):
                    ensure_topics_and_tables(settings.fleet)
                print(bootstrap.mark_first_known_good(context))
                yield context
        finally:
            for node in settings.fleet:
                nodes.destroy_node(settings, node.name)


@pytest.fixture(scope="module")
def context() -> Iterator[Context]:
    with serving_fleet("127.43", KAFKA_AND_CASSANDRA) as context:
        yield context

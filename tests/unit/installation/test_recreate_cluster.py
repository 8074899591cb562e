"""A cluster is recreated only where too few disks are left to come back from, and with nobody else at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from kintsugi.core import cassandra_racks
from kintsugi.core.errors import GuardRefused, LeaseHeld
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.infra.airflow_client import Airflow
from kintsugi.installation import recreate_cluster
from kintsugi.installation.progress import Progress
from tests.installations import installation
from tests.unit.core.test_fleet_hosts import document


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An installation whose clusters exist, and of whose disks none is there."""
    made = installation(tmp_path, "127.34")
    for role in (Role.KAFKA, Role.CASSANDRA):
        note = recreate_cluster.formed_file(made, role)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    return made


def disk(settings: Settings, name: str, file: str, content: str = "") -> None:
    path = settings.node_volume(name) / "data" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_without_any_disk_either_may_be_formed(settings: Settings) -> None:
    recreate_cluster.require_loss(settings, Role.KAFKA)
    recreate_cluster.require_loss(settings, Role.CASSANDRA)


def test_one_cassandra_disk_brings_the_others_back(settings: Settings) -> None:
    disk(settings, "cassandra-1", "cassandra/begun-by", "replace\n")  # new, and waits in vain
    recreate_cluster.require_loss(settings, Role.CASSANDRA)
    disk(settings, "cassandra-3", "cassandra/joined")
    with pytest.raises(GuardRefused, match=r"cassandra-3.*replay_trades"):
        recreate_cluster.require_loss(settings, Role.CASSANDRA)


def test_kafka_comes_back_with_a_majority_of_its_voters_only(settings: Settings) -> None:
    log = "kafka/__cluster_metadata-0/00000000000000000000.log"
    disk(settings, "kafka-1", log, "records")
    disk(settings, "kafka-2", log)  # formatted, and never met its quorum
    recreate_cluster.require_loss(settings, Role.KAFKA)
    disk(settings, "kafka-2", log, "records")
    with pytest.raises(GuardRefused, match="kafka-1, kafka-2"):
        recreate_cluster.require_loss(settings, Role.KAFKA)


def test_one_that_was_killed_goes_on_whatever_its_new_disks_hold(settings: Settings) -> None:
    disk(settings, "cassandra-1", "cassandra/joined")
    recreate_cluster.forming_file(settings, Role.CASSANDRA).touch()
    recreate_cluster.require_loss(settings, Role.CASSANDRA)


def test_a_missing_note_forms_nothing_over_disks_that_are_there(settings: Settings) -> None:
    disk(settings, "cassandra-1", "cassandra/joined")
    recreate_cluster.formed_file(settings, Role.CASSANDRA).unlink()
    with pytest.raises(GuardRefused, match="cassandra-1"):
        recreate_cluster.require_loss(settings, Role.CASSANDRA)


def test_spark_keeps_nothing_that_would_be_gone(settings: Settings) -> None:
    with pytest.raises(GuardRefused, match="spark_master"):
        recreate_cluster.require_loss(settings, Role.SPARK_MASTER)


def test_with_kafkas_offsets_goes_the_checkpoint_that_counts_them(settings: Settings) -> None:
    context: Any = SimpleNamespace(fleet=settings.fleet)
    assert [node.name for node in recreate_cluster.replaced_nodes(context, Role.KAFKA)] == [
        "kafka-1", "kafka-2", "kafka-3", "spark-master-1",
    ]  # fmt: skip
    assert {node.role for node in recreate_cluster.replaced_nodes(context, Role.CASSANDRA)} == {
        Role.CASSANDRA
    }


class Repaired(Airflow):
    """An Airflow and its store: a repair of kafka-1 asks a person, and gives its lease back once it is told no."""

    def __init__(self) -> None:
        super().__init__("http://127.34.0.1:8080", str)
        self.answers: list[tuple[str, str]] = []
        self.looks: Iterator[str] = iter(("watch_kafka-1/r1", "watch_kafka-1/r1", "", ""))

    def questions(self) -> list[dict[str, Any]]:
        asked = [{"dag_id": "watch_kafka-1"}, {"dag_id": "watch_kafka-3"}]
        return asked if not self.answers else asked[1:]

    def answer(self, question: Mapping[str, Any], option: str) -> None:
        self.answers.append((question["dag_id"], option))

    def acquire_lease(self, node: str, holder: str, ttl_s: float, *, fresh_token: bool) -> None:
        if at_work := next(self.looks):
            raise LeaseHeld(f"{node} is being repaired by {at_work}")


def test_the_nodes_own_question_is_declined_and_its_repair_waited_for(settings: Settings) -> None:
    seen: Any = Repaired()
    context: Any = SimpleNamespace(store=seen)
    recreate_cluster.end_repair(context, seen, settings.fleet.node("kafka-1"), Progress())
    assert seen.answers == [("watch_kafka-1", "Decline")]
    assert next(seen.looks) == ""  # it looked until the lease was free, and not once more


class Killed(Exception):
    """The command ends here."""


@pytest.mark.parametrize(("role", "zones"), [(Role.CASSANDRA, None), (Role.KAFKA, {"cassandra-1": "a"})])
def test_an_empty_cassandra_cluster_is_free_of_the_zones_of_the_lost_one(
    settings: Settings, role: Role, zones: dict[str, str] | None
) -> None:
    cassandra_racks.record_zones(settings, {"cassandra-1": "a"})

    def replace_nodes(_: object) -> None:
        raise Killed

    terraform = SimpleNamespace(replace=replace_nodes)
    context: Any = SimpleNamespace(settings=settings, fleet=settings.fleet, terraform=lambda: terraform)
    with pytest.raises(Killed):
        recreate_cluster.form_cluster(context, role, settings.fleet.of(role), Progress())
    assert cassandra_racks.formed_zones(settings) == zones


def test_no_cluster_on_hosts_is_recreated_whose_disks_nobody_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(document()))
    with pytest.raises(GuardRefused):
        recreate_cluster.require_loss(Settings(tmp_path / "state", tmp_path / "cache", path), Role.KAFKA)

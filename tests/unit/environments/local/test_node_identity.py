"""Identities that all nodes of one installation agree on."""

from __future__ import annotations

import base64
from pathlib import Path

from kintsugi.core.settings import Settings, load_settings
from kintsugi.environments.local.node_identity import kafka_cluster_id, kafka_directory_id


def at(path: Path) -> Settings:
    return Settings(path, load_settings().cache, load_settings().fleet_file)


def test_ids_are_the_same_each_time_and_differ_between_brokers(tmp_path: Path) -> None:
    settings = at(tmp_path)
    names = ["kafka-1", "kafka-2", "kafka-3"]
    first = [kafka_directory_id(settings, name) for name in names]
    assert first == [kafka_directory_id(settings, name) for name in names]
    assert len({*first, kafka_cluster_id(settings)}) == 4


def test_another_installation_has_other_ids(tmp_path: Path) -> None:
    assert kafka_cluster_id(at(tmp_path / "a")) != kafka_cluster_id(at(tmp_path / "b"))


def test_an_id_is_sixteen_bytes_that_no_tool_takes_for_an_option(tmp_path: Path) -> None:
    settings = at(tmp_path)
    for number in range(300):  # one in 64 would start with a dash
        text = kafka_directory_id(settings, f"kafka-{number}")
        assert not text.startswith("-")
        assert len(base64.urlsafe_b64decode(text + "==")) == 16

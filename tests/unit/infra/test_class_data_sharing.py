"""Class archives of the newest sets of jars stay."""

from __future__ import annotations

import os
from pathlib import Path

from kintsugi.infra import class_data_sharing


def test_the_archives_of_other_releases_stay_and_the_oldest_go(tmp_path: Path) -> None:
    for age, name in enumerate(["kafka-d", "kafka-c", "kafka-b", "kafka-a", "cassandra-a"]):
        (tmp_path / f"{name}.jsa").touch()
        os.utime(tmp_path / f"{name}.jsa", (1000 - age, 1000 - age))
    class_data_sharing._remove_old_archives(tmp_path, "kafka")
    assert sorted(path.stem for path in tmp_path.iterdir()) == [
        "cassandra-a",
        "kafka-b",
        "kafka-c",
        "kafka-d",
    ]

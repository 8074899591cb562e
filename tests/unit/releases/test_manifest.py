"""What belongs to a release and what its digest depends on."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from kintsugi.core.errors import FleetError
from kintsugi.core.fleet import REPOSITORY
from kintsugi.pipeline.stream.submission import write_package
from kintsugi.releases import manifest as content
from kintsugi.releases.manifest import ManifestDifference, ManifestFile


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small checkout."""
    for path, text in {
        "fleet.yaml": "nodes: []",
        "artifacts/kafka/jars.sha256": "0  kafka.jar",
        "artifacts/kafka/pom.xml": "<project/>",
        "ansible/ansible.cfg": "[defaults]",
        "ansible/roles/kafka/templates/server.properties.j2": "listeners=x",
        "ansible/roles/kafka/defaults/main.yml": "kafka_heap: 1",
        "spark_apps/stream_trades.py": "pass",
        "plugins/kintsugi/core/fleet.py": "pass",
        "plugins/kintsugi/pipeline/row_parser.py": "pass",
        "plugins/kintsugi/recovery/actions.py": "runs on the control plane only",
        "docs/page.md": "runs nowhere",
        "ansible/roles/kafka/__pycache__/x.pyc": "made by Python",
        "ansible/roles/kafka/.main.yml.swp": "made by an editor",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def digest(tree: Path) -> str:
    return content.manifest_digest(content.read_manifest(tree))


def test_what_runs_on_nodes_belongs_to_it_and_nothing_else(tree: Path) -> None:
    assert list(content.read_manifest(tree)) == [
        "ansible/ansible.cfg",
        "ansible/roles/kafka/defaults/main.yml",
        "ansible/roles/kafka/templates/server.properties.j2",
        "artifacts/kafka/jars.sha256",
        "artifacts/kafka/pom.xml",
        "fleet.yaml",
        "plugins/kintsugi/core/fleet.py",
        "plugins/kintsugi/pipeline/row_parser.py",
        "spark_apps/stream_trades.py",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "fleet.yaml",
        "artifacts/kafka/jars.sha256",
        "artifacts/kafka/pom.xml",
        "ansible/roles/kafka/defaults/main.yml",
        "ansible/roles/kafka/templates/server.properties.j2",
        "spark_apps/stream_trades.py",
        "plugins/kintsugi/pipeline/row_parser.py",
    ],
)
def test_a_change_of_anything_that_runs_makes_another_release(tree: Path, path: str) -> None:
    before = digest(tree)
    with (tree / path).open("a") as file:
        file.write(" ")
    assert digest(tree) != before


@pytest.mark.parametrize("path", ["docs/page.md", "plugins/kintsugi/recovery/actions.py"])
def test_a_change_of_what_runs_elsewhere_does_not(tree: Path, path: str) -> None:
    before = digest(tree)
    (tree / path).write_text("other")
    assert digest(tree) == before


def test_neither_time_nor_place_counts_but_the_mode_does(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(tree, copy, ignore=lambda *_: ["elsewhere"])
    assert digest(copy) == digest(tree)
    (copy / "spark_apps/stream_trades.py").chmod(0o755)
    assert digest(copy) != digest(tree)


def test_the_fleet_file_may_lie_elsewhere(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("nodes: [1]")
    manifest = content.read_manifest(tree, other)
    assert manifest["fleet.yaml"] != content.read_manifest(tree)["fleet.yaml"]


def test_a_manifest_is_read_as_it_was_written(tree: Path) -> None:
    manifest = content.read_manifest(tree)
    assert content.parse_manifest(content.format_manifest(manifest)) == manifest
    with pytest.raises(ValueError, match="what is"):
        content.parse_manifest("what is  644  this\n")


def test_what_differs_is_told_by_path() -> None:
    one, two, other = (
        ManifestFile("1" * 64, "644"),
        ManifestFile("2" * 64, "644"),
        ManifestFile("1" * 64, "755"),
    )
    found = content.compare_manifests(
        {"a": one, "b": one, "c": one, "d": one}, {"b": one, "c": two, "d": other, "e": one}
    )
    assert found == ManifestDifference(added=("e",), removed=("a",), changed=("c", "d"))
    assert not content.compare_manifests({"a": one}, {"a": one})


def test_a_directory_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="neither a checkout nor a release"):
        content.read_manifest(tmp_path)


def test_a_checkout_without_a_fleet_file_is_refused(tree: Path) -> None:
    (tree / "fleet.yaml").unlink()
    with pytest.raises(FleetError, match=r"fleet\.yaml.*No such file"):
        content.read_manifest(tree)


def test_the_code_of_a_release_is_what_executors_are_sent(tmp_path: Path) -> None:
    sent = zipfile.ZipFile(write_package(tmp_path / "kintsugi.zip")).namelist()
    belongs = [path for path in content.member_paths(REPOSITORY) if path.startswith("plugins/")]
    assert sorted(f"plugins/{name}" for name in sent) == belongs

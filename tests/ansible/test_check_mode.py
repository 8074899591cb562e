"""The roles in check mode, on this machine instead of a node: what a roll-out and the search for drift rely on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import Settings
from kintsugi.infra.ansible import Ansible, Checked
from kintsugi.releases import archive
from kintsugi.releases import manifest as content
from kintsugi.releases.archive import Release
from tests.installations import installation, open_directory

HERE = {"ansible_connection": "local"}
NODES = ["kafka-1", "cassandra-1", "spark-master-1", "spark-worker-1"]


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with open_directory() as directory:
        made = installation(directory, "127.38")
        for name in NODES:
            (made.node_volume(name) / "data").mkdir(parents=True)
            for part in ("tmp", "etc/supervisor.d", "log", "run", "bin"):
                (made.node_root(name) / part).mkdir(parents=True)
        for role in ("kafka", "cassandra", "spark"):
            made.jars(role).mkdir(parents=True, exist_ok=True)
        yield made


@pytest.fixture(scope="module")
def release(settings: Settings) -> Release:
    return archive.build_release(settings)


def changed_release(settings: Settings, scratch: Path, path: str, old: str, new: str) -> Release:
    """This checkout as a release, with one change in one file."""
    for member in content.member_paths(REPOSITORY):
        (scratch / member).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / member, scratch / member)
    text = (scratch / path).read_text()
    assert old in text
    (scratch / path).write_text(text.replace(old, new))
    return archive.build_release(settings, scratch, settings.fleet_file)


def check(settings: Settings, release: Release, nodes: list[str]) -> Checked:
    return Ansible(settings, release).check(nodes, extra_vars=HERE, timeout_s=200)


def put_down(settings: Settings, release: Release, node: str) -> None:
    """Write all files of a node; its service doesn't start, as no init is there, and that comes last."""
    with pytest.raises(StepFailed, match=r"cannot format|init of"):
        Ansible(settings, release).run("site.yml", limit=node, extra_vars=HERE, timeout_s=200)


def test_a_check_names_what_would_be_written_and_writes_nothing(settings: Settings, release: Release) -> None:
    checked = check(settings, release, NODES)
    assert checked.failed == {}
    assert checked.unreachable == {}
    assert sorted(checked.differs) == sorted(NODES)
    root = settings.node_root("kafka-1")
    assert str(root / "etc/kafka/server.properties") in checked.differs["kafka-1"]
    assert str(root / "etc/supervisor.d/kafka.conf") in checked.differs["kafka-1"]
    assert not (root / "etc/kafka").exists()
    master = settings.node_root("spark-master-1")
    assert str(master / "lib/kintsugi/pipeline/stream/submission.py") in checked.differs["spark-master-1"]
    assert str(master / "lib/spark_apps/stream_trades.py") in checked.differs["spark-master-1"]


def test_the_code_of_the_release_is_written_as_it_is(
    settings: Settings, release: Release, tmp_path: Path
) -> None:
    put_down(settings, release, "spark-master-1")
    code = settings.node_root("spark-master-1") / "lib"
    written = {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}
    belongs = {path for path in release.manifest if path.startswith(("plugins/", "spark_apps/"))}
    assert written == {path.removeprefix("plugins/") for path in belongs}
    for path in belongs:
        assert (code / path.removeprefix("plugins/")).read_bytes() == (release.directory / path).read_bytes()


def test_a_template_that_does_not_render_is_found_on_its_nodes_alone(
    settings: Settings, tmp_path: Path
) -> None:
    broken = changed_release(
        settings, tmp_path, "ansible/roles/kafka/templates/server.properties.j2",
        "node.id={{ node_index }}", "node.id={{ node_indx }}",
    )  # fmt: skip
    checked = check(settings, broken, ["kafka-1", "spark-worker-1"])
    assert list(checked.failed) == ["kafka-1"]
    assert "node_indx" in checked.failed["kafka-1"]
    assert list(checked.differs) == ["spark-worker-1"]


def test_an_edit_by_hand_differs_and_a_release_without_changes_does_not(
    settings: Settings, release: Release, tmp_path: Path
) -> None:
    put_down(settings, release, "cassandra-1")
    etc = settings.node_root("cassandra-1") / "etc/cassandra"
    definition = str(settings.node_root("cassandra-1") / "etc/supervisor.d/cassandra.conf")
    only_definition = check(settings, release, ["cassandra-1"]).differs["cassandra-1"]
    assert set(only_definition) <= {definition}
    with (etc / "logback.xml").open("a") as file:
        file.write("<!-- tried at night -->")
    assert str(etc / "logback.xml") in check(settings, release, ["cassandra-1"]).differs["cassandra-1"]
    other = changed_release(
        settings, tmp_path, "ansible/roles/cassandra/templates/jvm.options.j2", "-Xss256k", "-Xss257k"
    )
    differs = check(settings, other, ["cassandra-1"]).differs["cassandra-1"]
    assert {str(etc / "form.options"), str(etc / "replace.options")} <= set(differs)


def test_a_cluster_of_which_a_node_never_served_does_not_count_as_formed(
    settings: Settings, release: Release
) -> None:
    # common is the one role that ends well without a node's init; there is no such node as cassandra-3 here.
    role = {"node_role": "{{ 'cassandra' if inventory_hostname == 'cassandra-3' else 'common' }}"}
    with pytest.raises(StepFailed, match="cassandra-3"):
        Ansible(settings, release).run("site.yml", extra_vars=HERE | role, timeout_s=200)
    assert [mark.name for mark in (settings.control / "formed").iterdir()] == ["kafka"]


def test_what_a_login_script_prints_does_not_hide_the_free_space(
    settings: Settings, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = settings.control / "noisy-shell"
    shell.write_text('#!/bin/sh\necho "a login script talks"\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    monkeypatch.setenv("ANSIBLE_EXECUTABLE", str(shell))
    put_down(settings, release, "spark-worker-1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"common_free_mib": 10**9}, r"the volume has \d+ MiB free, 1000000000 are needed"),
        ({"node_volume": "/nowhere at all"}, r"there is no data directory in /nowhere at all;"),
        ({"node_jars": "/nowhere"}, r"the artifacts are missing: /nowhere; run `make setup`"),
    ],
)
def test_a_node_that_lacks_what_it_needs_is_told_in_words(
    settings: Settings, release: Release, given: dict[str, object], said: str
) -> None:
    with pytest.raises(StepFailed, match=said):
        Ansible(settings, release).run("site.yml", limit="kafka-1", extra_vars=HERE | given, timeout_s=200)

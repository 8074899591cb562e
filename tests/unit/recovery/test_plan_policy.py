"""The plan policy on plans that the real Terraform made of a small configuration with our addresses."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.errors import PlanRejected
from kintsugi.recovery.plan_policy import PlanSummary, check_plan, node_addresses

PART = """
variable "name" { type = string }
variable "needs" {
  type    = string
  default = ""
}
variable "size" {
  type    = number
  default = 1
}
resource "terraform_data" "this" {
  input = { name = var.name, needs = var.needs, size = var.size }
}
output "id" { value = terraform_data.this.id }
"""
ROOT = """
variable "nodes" { type = set(string) }
variable "size" {
  type    = number
  default = 1
}
module "volume" {
  source   = "./part"
  for_each = var.nodes
  name     = each.key
}
module "node" {
  source   = "./part"
  for_each = var.nodes
  name     = each.key
  needs    = module.volume[each.key].id
  size     = var.size
}
output "size" { value = var.size }
"""
NODES = 'nodes=["kafka-1", "kafka-2"]'
NODE, VOLUME = 'module.node["kafka-1"].terraform_data.this', 'module.volume["kafka-1"].terraform_data.this'
OTHER = 'module.node["kafka-2"].terraform_data.this'

Plan = Callable[..., dict[str, Any]]


class Terraform:
    """Terraform in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # An installation's own command line configuration (mirrors, caches) must not leak in.
        self.environment = {**os.environ, "TF_CLI_CONFIG_FILE": str(directory / "terraformrc")}
        (directory / "terraformrc").touch()

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["terraform", *words],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plan(self, *words: str, nodes: str = NODES) -> dict[str, Any]:
        self.run("plan", "-input=false", "-var", nodes, "-out=plan", *words)
        document: dict[str, Any] = json.loads(self.run("show", "-json", "plan"))
        return document


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("terraform") is None:
        pytest.fail("terraform is not installed, and these tests are about its real plans")
    directory = tmp_path_factory.mktemp("terraform")
    (directory / "part").mkdir()
    (directory / "part" / "main.tf").write_text(PART)
    (directory / "main.tf").write_text(ROOT)
    terraform = Terraform(directory)
    terraform.run("init", "-input=false")
    terraform.run("apply", "-input=false", "-auto-approve", "-var", NODES)
    return directory


@pytest.fixture
def terraform(standing: Path, tmp_path: Path) -> Terraform:
    """A copy of the standing fleet, so that a test may break it."""
    return Terraform(Path(shutil.copytree(standing, tmp_path / "terraform")))


def aimed(*targets: str) -> list[str]:
    return [word for target in targets for word in (f"-replace={target}", f"-target={target}")]


def test_a_node_and_its_volume_have_these_addresses() -> None:
    assert node_addresses("local", "kafka-1", with_volume=False) == [NODE]
    assert node_addresses("local", "kafka-1", with_volume=True) == [VOLUME, NODE]


def test_replacing_one_node_passes(terraform: Terraform) -> None:
    summary = check_plan(terraform.plan(*aimed(NODE)), [NODE])
    assert summary == PlanSummary(replaced=(NODE,))
    assert str(summary) == f"The plan replaces {NODE}."


def test_replacing_a_node_and_its_volume_passes(terraform: Terraform) -> None:
    assert set(check_plan(terraform.plan(*aimed(VOLUME, NODE)), [VOLUME, NODE]).replaced) == {VOLUME, NODE}


def test_the_volume_may_not_go_when_only_the_node_was_meant(terraform: Terraform) -> None:
    with pytest.raises(PlanRejected, match=r'would delete and create module.volume\["kafka-1"\]'):
        check_plan(terraform.plan(*aimed(VOLUME, NODE)), [NODE])


def test_a_second_tainted_node_is_refused_and_does_not_join_a_targeted_plan(terraform: Terraform) -> None:
    terraform.run("taint", OTHER)
    with pytest.raises(PlanRejected, match=r"kafka-2.*not part of the node in recovery"):
        check_plan(terraform.plan(f"-replace={NODE}"), [NODE])
    assert check_plan(terraform.plan(*aimed(NODE)), [NODE]).replaced == (NODE,)


def test_a_missing_node_is_created(terraform: Terraform) -> None:
    terraform.run("state", "rm", NODE)
    summary = check_plan(terraform.plan(*aimed(NODE)), [NODE])
    assert summary == PlanSummary(created=(NODE,))


def test_a_plan_without_changes_passes_and_says_so(terraform: Terraform) -> None:
    summary = check_plan(terraform.plan(), [NODE])
    assert (summary, str(summary)) == (PlanSummary(), "The plan changes nothing.")


def test_an_update_in_place_is_no_repair(terraform: Terraform) -> None:
    with pytest.raises(PlanRejected, match="would update"):
        check_plan(terraform.plan("-var=size=2", f"-target={NODE}"), [NODE])


def test_a_change_of_all_other_nodes_is_refused(terraform: Terraform) -> None:
    with pytest.raises(PlanRejected, match="kafka-2"):
        check_plan(terraform.plan("-var=size=2", f"-replace={NODE}"), [NODE])


@pytest.mark.parametrize("allowed", [[NODE, VOLUME], [OTHER]])
def test_a_node_that_left_the_fleet_is_not_destroyed_by_a_repair(
    terraform: Terraform, allowed: list[str]
) -> None:
    with pytest.raises(PlanRejected, match="would delete module"):
        check_plan(terraform.plan(nodes='nodes=["kafka-2"]'), allowed)


def test_destroying_everything_is_refused(terraform: Terraform) -> None:
    with pytest.raises(PlanRejected, match="would delete"):
        check_plan(terraform.plan("-destroy"), [VOLUME, NODE])


def test_the_blast_radius_is_a_node_and_its_volume(terraform: Terraform) -> None:
    plan = terraform.plan(*aimed(NODE, VOLUME, OTHER))
    with pytest.raises(PlanRejected, match="would change 3 resources"):
        check_plan(plan, [NODE, VOLUME, OTHER])


def test_a_repair_makes_the_node_as_it_was(terraform: Terraform) -> None:
    with pytest.raises(PlanRejected, match=r'create module.node\["kafka-1"\].*with a different input.size'):
        check_plan(terraform.plan("-var=size=2", *aimed(NODE)), [NODE])


def test_a_move_is_refused(terraform: Terraform) -> None:
    main = (terraform.directory / "main.tf").read_text()
    moved = "moved {\n  from = module.node\n  to = module.server\n}\n"
    (terraform.directory / "main.tf").write_text(main.replace('module "node"', 'module "server"') + moved)
    terraform.run("init", "-input=false")
    with pytest.raises(PlanRejected, match=r'would move module.node\["kafka-1"\]'):
        check_plan(terraform.plan(), [NODE])


def test_an_import_is_refused(terraform: Terraform) -> None:
    main = (terraform.directory / "main.tf").read_text()
    imported = f'import {{\n  to = {OTHER}\n  id = "some-id"\n}}\n'
    terraform.run("state", "rm", OTHER)
    (terraform.directory / "main.tf").write_text(main + imported)
    with pytest.raises(PlanRejected, match=r'would import module.node\["kafka-2"\]'):
        check_plan(terraform.plan(), [NODE, OTHER])


def test_forgetting_a_node_is_refused(terraform: Terraform) -> None:
    main = (terraform.directory / "main.tf").read_text()
    (terraform.directory / "main.tf").write_text(
        main[: main.index('module "node"')]
        + "removed {\n  from = module.node\n  lifecycle { destroy = false }\n}\n"
    )
    terraform.run("init", "-input=false")
    with pytest.raises(PlanRejected, match="would forget module"):
        check_plan(terraform.plan("-var=size=1"), [NODE, OTHER])


def test_two_nodes_with_one_address_never_live_at_once(terraform: Terraform) -> None:
    part = (terraform.directory / "part" / "main.tf").read_text()
    (terraform.directory / "part" / "main.tf").write_text(
        part.replace("  input", "  lifecycle { create_before_destroy = true }\n  input")
    )
    with pytest.raises(PlanRejected, match="would create and delete"):
        check_plan(terraform.plan(*aimed(NODE)), [NODE])


def test_a_change_of_outputs_alone_does_not_block(terraform: Terraform) -> None:
    main = (terraform.directory / "main.tf").read_text()
    (terraform.directory / "main.tf").write_text(main + 'output "more" { value = 1 }\n')
    plan = terraform.plan()
    assert plan["output_changes"]["more"]["actions"] == ["create"]
    assert check_plan(plan, [NODE]) == PlanSummary()


def change(plan: dict[str, Any], **changes: Any) -> dict[str, Any]:
    altered = copy.deepcopy(plan)
    altered.update(changes)
    return altered


def test_what_terraform_data_cannot_show(terraform: Terraform) -> None:
    """Drift, deferral, deposed objects and unknown formats: a real plan, altered by one field."""
    plan = terraform.plan(*aimed(NODE))
    drift = [{"address": OTHER, "change": {"actions": ["update"]}}, {"address": NODE, "change": {}}]
    summary = check_plan(change(plan, resource_drift=drift), [NODE])
    assert summary.drift_elsewhere == (OTHER,)
    assert f"drift elsewhere, not touched: {OTHER}" in str(summary)
    deposed = [{**plan["resource_changes"][0], "deposed": "abc"}]
    for altered, words in (
        (change(plan, format_version="2.0"), "format version 2.0"),
        ({}, "format version missing"),
        (change(plan, errored=True), "ended with an error"),
        (change(plan, deferred_changes=[{}]), "defers 1 changes"),
        (change(plan, resource_changes=deposed), "deposed object"),
    ):
        with pytest.raises(PlanRejected, match=words):
            check_plan(altered, [NODE])


DOCKER = node_addresses("docker", "cassandra-2", with_volume=True)


@pytest.fixture
def docker_plan() -> dict[str, Any]:
    """What Terraform said before it replaced a container and its volume in a fleet of the docker environment."""
    document: dict[str, Any] = json.loads((Path(__file__).parent / "docker_plan.json").read_text())
    return document


def test_what_the_docker_provider_reports_and_nobody_said_is_no_difference(
    docker_plan: dict[str, Any],
) -> None:
    assert set(check_plan(docker_plan, DOCKER).replaced) == set(DOCKER)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("image", "sha256:another"),
        ("privileged", True),
        ("command", ["sleep", "infinity"]),
        (
            "command",
            ["cassandra-2", "kintsugi.local.node_init", "-m", "/opt/kintsugi/.venv/bin/python"],
        ),
        ("networks_advanced", [{"name": "kintsugi", "ipv4_address": "172.28.2.3"}]),
        ("volumes", []),
    ],
)
def test_a_container_made_anew_as_another_is_refused(
    docker_plan: dict[str, Any], attribute: str, value: object
) -> None:
    [container] = [item for item in docker_plan["resource_changes"] if "docker_container" in item["address"]]
    container["change"]["after"][attribute] = value
    with pytest.raises(PlanRejected, match=f"cassandra-2.*with a different {attribute}"):
        check_plan(docker_plan, DOCKER)


def test_a_container_that_loses_a_bound_is_refused(docker_plan: dict[str, Any]) -> None:
    [container] = [item for item in docker_plan["resource_changes"] if "docker_container" in item["address"]]
    container["change"]["before"]["memory"] = 512
    with pytest.raises(PlanRejected, match="with a different memory"):
        check_plan(docker_plan, DOCKER)


def test_what_is_known_of_a_list_is_judged_though_something_in_it_isn_t(docker_plan: dict[str, Any]) -> None:
    [container] = [item for item in docker_plan["resource_changes"] if "docker_container" in item["address"]]
    change = container["change"]
    change["after_unknown"]["volumes"] = [{}, {"volume_name": True}]
    change["after"]["volumes"][1]["volume_name"] = None
    assert check_plan(docker_plan, DOCKER).replaced
    change["after"]["volumes"][1]["container_path"] = "/"
    with pytest.raises(PlanRejected, match=r"different volumes\.1\.container_path"):
        check_plan(docker_plan, DOCKER)

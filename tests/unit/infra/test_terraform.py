"""The Terraform hook, on the real terraform with a small root module."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import Settings, load_settings
from kintsugi.infra.terraform import StalePlan, Terraform
from kintsugi.recovery.plan_policy import planned_changes

MODULE = """
variable "fleet_file" { type = string }
variable "state_dir" { type = string }
variable "cache_dir" { type = string }
variable "python" { type = string }
resource "terraform_data" "a" { input = var.state_dir }
resource "terraform_data" "b" { input = var.python }
resource "terraform_data" "slow" {
  count = fileexists("${path.module}/slow") ? 1 : 0
  provisioner "local-exec" {
    interpreter = [var.python, "-c"]
    command     = "import time; time.sleep(60)"
  }
}
resource "terraform_data" "broken" {
  count = fileexists("${path.module}/broken") ? 1 : 0
  provisioner "local-exec" {
    interpreter = [var.python, "-c"]
    command     = "import sys; sys.exit('no disk left on kafka-1')"
  }
}
output "nodes" { value = { a = terraform_data.a.output } }
"""
A, B = "terraform_data.a", "terraform_data.b"


@pytest.fixture
def terraform(tmp_path: Path) -> Terraform:
    root = tmp_path / "root"
    root.mkdir()
    (root / "main.tf").write_text(MODULE)
    settings = Settings(tmp_path / "state", load_settings().cache, load_settings().fleet_file)
    return Terraform(settings, root=root, pg_conn_str="postgres://not-used-by-this-module")


def test_the_installation_reaches_the_module_and_its_outputs_come_back(terraform: Terraform) -> None:
    terraform.apply_all()
    assert terraform.outputs() == {"nodes": {"a": str(terraform.settings.state)}}


def test_a_second_apply_changes_nothing(terraform: Terraform) -> None:
    terraform.apply_all()
    assert planned_changes(terraform.plan().document) == {}


def test_a_plan_replaces_what_it_was_told_and_nothing_else(terraform: Terraform) -> None:
    terraform.apply_all()
    saved = terraform.plan(replace=[A], targets=[A])
    assert planned_changes(saved.document) == {A: ["delete", "create"]}
    terraform.apply(saved)
    assert planned_changes(terraform.plan().document) == {}


def test_what_is_replaced_at_the_prompt_is_another_and_the_rest_stays(terraform: Terraform) -> None:
    def ids() -> dict[str, str]:
        state = json.loads((terraform.root / "terraform.tfstate").read_text())
        return {one["name"]: one["instances"][0]["attributes"]["id"] for one in state["resources"]}

    terraform.apply_all()
    before = ids()
    terraform.replace([A])
    after = ids()
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]


def test_a_saved_plan_can_be_loaded_by_another_process(terraform: Terraform) -> None:
    terraform.apply_all()
    saved = terraform.plan(replace=[A], targets=[A])
    again = Terraform(terraform.settings, root=terraform.root, pg_conn_str="postgres://x").load(saved.path)
    assert planned_changes(again.document) == planned_changes(saved.document)


def test_a_plan_of_an_older_state_is_stale(terraform: Terraform) -> None:
    terraform.apply_all()
    first, second = terraform.plan(replace=[A], targets=[A]), terraform.plan(replace=[B], targets=[B])
    terraform.apply(first)
    with pytest.raises(StalePlan, match="plan again"):
        terraform.apply(second)


def test_a_failure_is_one_line_with_the_reason(terraform: Terraform) -> None:
    (terraform.root / "broken").touch()
    with pytest.raises(StepFailed, match="no disk left on kafka-1") as caught:
        terraform.apply_all()
    assert "\n" not in str(caught.value)


def test_a_run_without_end_is_stopped(terraform: Terraform) -> None:
    terraform.init()
    (terraform.root / "slow").touch()
    began = time.monotonic()
    with pytest.raises(StepFailed, match="no end after 3 s"):
        terraform.apply_all(timeout_s=3)
    assert time.monotonic() - began < 50


def test_an_unreadable_configuration_file_of_terraform_does_no_harm(
    terraform: Terraform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file without permission fails as a name that is too long does, for root too: with an OSError."""
    for path in (str(tmp_path), "/dev/null/terraformrc", "x" * 5000):
        monkeypatch.setenv("TF_CLI_CONFIG_FILE", path)
        assert "TF_CLI_CONFIG_FILE" not in terraform._environment()
    (tmp_path / "rc").touch()
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", str(tmp_path / "rc"))
    assert terraform._environment()["TF_CLI_CONFIG_FILE"] == str(tmp_path / "rc")
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", "/nowhere/terraformrc")
    terraform.init()
    assert sys.executable == terraform._environment()["TF_VAR_python"]
    assert "TF_CLI_CONFIG_FILE" not in terraform._environment()


def test_destroyed_clusters_are_forgotten(terraform: Terraform) -> None:
    formed = terraform.settings.control / "formed"
    formed.mkdir(parents=True)
    (formed / "kafka").touch()
    terraform.apply_all()
    terraform.destroy_all()
    assert not formed.exists()
    assert terraform.outputs() == {}


def test_what_stands_in_the_state_is_known_by_its_id(terraform: Terraform) -> None:
    assert terraform.known() == set()
    terraform.apply_all()
    before = terraform.known()
    terraform.replace([A])
    assert len(before) == len(terraform.known()) == 2
    assert len(before & terraform.known()) == 1

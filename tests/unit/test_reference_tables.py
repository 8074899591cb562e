"""The READMEs of roles, Terraform modules and the Ansible module say what their sources declare."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kintsugi.core.fleet import REPOSITORY
from tests.reference_tables import (
    ROLES,
    TERRAFORM,
    blocks,
    modules,
    readmes,
    replaced,
    roles,
    specification,
)

COLLECTION = REPOSITORY / "ansible/collections/ansible_collections/kintsugi/node"
READMES = list(readmes())


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    """The options of all entry points of a role."""
    return {name: option for spec in specification(role).values() for name, option in spec["options"].items()}


@pytest.mark.parametrize(
    ("path", "mark", "tables"), READMES, ids=[str(path.relative_to(REPOSITORY)) for path, _, _ in READMES]
)
def test_a_readme_has_the_tables_of_its_source(path: Path, mark: str, tables: str) -> None:
    text = path.read_text()
    assert replaced(text, mark, tables) == text, "run `python -m tests.reference_tables`"


def test_every_role_and_every_module_is_found() -> None:
    assert [role.name for role in roles()] == sorted(path.name for path in ROLES.iterdir())
    assert {path.parent for path in TERRAFORM.rglob("main.tf")} == set(modules())


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(TERRAFORM)))
def test_every_block_of_a_module_is_read_with_its_description(module: Path) -> None:
    for kind, name in (("variable", "variables.tf"), ("output", "outputs.tf")):
        text = (module / name).read_text()
        found = blocks(module / name, kind)
        assert [block.name for block in found] == re.findall(rf'\b{kind} "(\w+)"', text)
        assert all(block.description for block in found)
        assert all("type" in block.attributes for block in found if kind == "variable")


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ("local", "docker", {"fleet_file", "state_dir", "cache_dir", "python"}),
        ("modules/local_node", "modules/local_volume", {"launcher"}),
        ("modules/docker_node", "modules/docker_volume", {"launcher"}),
        ("local", "hosts", {"fleet_file", "state_dir", "cache_dir", "python", "nodes"}),
        ("modules/hosts_node", "modules/hosts_volume", {"launcher", "host"}),
        ("modules/local_node", "modules/hosts_node", {"launcher"}),
    ],
)
def test_what_two_modules_must_declare_they_declare_word_for_word(
    one: str, other: str, names: set[str]
) -> None:
    def declarations(module: str) -> dict[str, str]:
        text = (TERRAFORM / module / "variables.tf").read_text()
        return {match[1]: match[0] for match in re.finditer(r'(?ms)^variable "(\w+)" \{\n.*?^\}$', text)}

    first, second = declarations(one), declarations(other)
    assert {name for name in names if first[name] == second[name]} == names


@pytest.mark.parametrize("role", roles(), ids=lambda path: path.name)
def test_a_default_is_the_one_that_the_specification_names(role: Path) -> None:
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    specified = {
        name: option["default"]
        for name, option in options_of(role).items()
        # A variable of another prefix is the caller's: the role's defaults may not set it.
        if not option.get("required") and name.startswith(f"{role.name}_")
    }
    assert specified == defaults


@pytest.mark.parametrize("role", roles(), ids=lambda path: path.name)
def test_what_the_inventory_gives_and_a_role_uses_is_specified(role: Path) -> None:
    plugin = ast.parse((COLLECTION / "plugins/inventory/fleet.py").read_text())
    given = {
        key.value
        for node in ast.walk(plugin)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    } | {
        "kafka_directory_id",
        "kafka_rack",
        "spark_defaults",
        "cassandra_rack",
        "cassandra_jmx_port",
        "cassandra_jmx_password",
    }
    assert {"node_root", "java_home", "kafka_formed"} <= given
    texts = [
        path.read_text()
        for part in ("tasks", "vars", "templates", "handlers")
        for path in (role / part).glob("*")
    ]
    used = {name for name in given for text in texts if re.search(rf"\b{name}\b", text)}
    specified = options_of(role).keys() | options_of(ROLES / "common").keys()
    assert {name for name in used if not name.startswith("ansible_")} - specified == set()


def test_the_modules_documentation_has_the_options_that_it_takes() -> None:
    texts = {
        name: ast.literal_eval(value)
        for path in ("modules/service.py", "module_utils/files.py", "module_utils/kafka_storage.py",
                     "module_utils/preconditions.py", "module_utils/programs.py")
        for name, value in assignments(COLLECTION / "plugins" / path)
    }  # fmt: skip
    documented = yaml.safe_load(texts["DOCUMENTATION"])["options"]
    expected = {
        "preconditions": texts["preconditions"],
        "files": texts["files"],
        "secret_files": texts["files"],  # with a content that Ansible hides, which no documentation says
        "ready_files": texts["files"],
        "kafka_storage": texts["kafka_storage"],
        "programs": texts["programs"],
    }
    assert {
        name: suboptions(option) for name, option in documented.items() if "suboptions" in option
    } == expected
    assert documented.keys() - expected.keys() == {"root", "directories"}


def assignments(path: Path) -> list[tuple[str, ast.expr]]:
    """The texts of the module, and the argument specification of each part, under the part's name."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in {"DOCUMENTATION", "SPEC"}:
                found.append((name if name == "DOCUMENTATION" else path.stem, node.value))
    return found


def suboptions(option: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The suboptions as an argument specification, without their descriptions."""
    return {
        name: {key: value for key, value in entry.items() if key != "description"}
        for name, entry in option["suboptions"].items()
    }

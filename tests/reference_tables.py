"""The tables in the READMEs of roles and Terraform modules, made from what they describe.

``python -m tests.reference_tables`` writes them anew, between the marks that terraform-docs and aar-doc use.
``tests/unit/test_reference_tables.py`` fails when a README differs from its source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kintsugi.core.fleet import REPOSITORY

ROLES = REPOSITORY / "ansible" / "roles"
TERRAFORM = REPOSITORY / "terraform"
_SHORT = 60  # characters of a default that a cell shows


def roles() -> list[Path]:
    """The directory of each role."""
    return sorted(path.parent.parent for path in ROLES.glob("*/meta/argument_specs.yml"))


def modules() -> list[Path]:
    """The directory of each Terraform module, root modules included."""
    return sorted({path.parent for path in TERRAFORM.rglob("variables.tf") if ".terraform" not in path.parts})


def specification(role: Path) -> Mapping[str, Any]:
    """The role's entry points by name, each with its description and its options."""
    document = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    specs: Mapping[str, Any] = document["argument_specs"]
    return specs


def role_tables(role: Path) -> str:
    """A table of variables for each entry point of the role."""
    parts = []
    for entry, spec in specification(role).items():
        rows = [
            (f"`{name}`", _option_type(option), _option_default(option), _marked_up(option["description"]))
            for name, option in spec["options"].items()
        ]
        heading = f"### Entry point `{entry}`\n\n{_marked_up(spec['short_description'])}.\n\n"
        parts.append(heading + _table(("Variable", "Type", "Default", "Description"), rows))
    return "\n".join(parts)


def _option_type(option: Mapping[str, Any]) -> str:
    return f"list of {option['elements']}" if option["type"] == "list" else str(option["type"])


def _option_default(option: Mapping[str, Any]) -> str:
    if option.get("required"):
        return "required"
    default = option["default"]
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    text = "[" + ", ".join(map(str, default)) + "]" if isinstance(default, list) else str(default)
    if not text:
        return "empty"
    return f"`{text}`" if len(text) <= _SHORT else "see `defaults/main.yml`"


def _marked_up(text: str) -> str:
    """Ansible's marks as Markdown."""
    return re.sub(r"\b[CVO]\(([^)]*)\)", r"`\1`", text.strip())


@dataclass(frozen=True, slots=True)
class Block:
    """One ``variable`` or ``output``: its name and its attributes, as the file writes them."""

    name: str
    attributes: Mapping[str, str]

    @property
    def description(self) -> str:
        """The text of ``description``."""
        return self.attributes["description"].strip('"').replace('\\"', '"')


def blocks(path: Path, kind: str) -> list[Block]:
    """The blocks of one kind in a Terraform file; none when there is no such file."""
    text = path.read_text() if path.exists() else ""
    starts = re.finditer(rf'^{kind} "([^"]+)" \{{$', text, re.MULTILINE)
    return [Block(start[1], dict(_attributes(text[start.end() :]))) for start in starts]


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    """The attributes of a formatted block, up to its closing brace; those of nested blocks are left out."""
    body = text[: text.index("\n}")]
    for found in re.finditer(r"^  (\w+) += (.*(?:\n(?:    .*|  [}\])].*|))*)", body, re.MULTILINE):
        lines = found[2].rstrip().splitlines()
        yield found[1], " ".join(line.strip() for line in lines)


def module_tables(module: Path) -> str:
    """The tables of requirements, inputs and outputs of the module, as terraform-docs writes them."""
    inputs = [
        (
            f"`{block.name}`",
            block.description,
            f"`{_one_line_type(block.attributes['type'])}`",
            f"`{block.attributes['default']}`" if "default" in block.attributes else "n/a",
            "no" if "default" in block.attributes else "yes",
        )
        for block in blocks(module / "variables.tf", "variable")
    ]
    outputs = [(f"`{block.name}`", block.description) for block in blocks(module / "outputs.tf", "output")]
    return "\n".join(
        (
            "## Requirements\n\n" + _table(("Name", "Version"), _requirements(module)),
            "## Inputs\n\n" + _table(("Name", "Description", "Type", "Default", "Required"), inputs),
            "## Outputs\n\n" + _table(("Name", "Description"), outputs),
        )
    )


def _one_line_type(written: str) -> str:
    """An object type on one line, with a comma between its attributes."""
    return re.sub(r"(\w) (\w+ += )", r"\1, \2", re.sub(r" +", " ", written))


def _requirements(module: Path) -> list[tuple[str, str]]:
    text = (module / "versions.tf").read_text()
    version = re.search(r'required_version = "([^"]+)"', text)
    rows = [("terraform", f"`{version[1]}`")] if version else []
    for source, rest in re.findall(r'source += "([^"]+)"\n(.*)', text):
        pinned = re.search(r'version += "([^"]+)"', rest)
        rows.append((source, f"`{pinned[1]}`" if pinned else "the root module's"))
    return rows


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def replaced(text: str, mark: str, tables: str) -> str:
    """The README with the part between its marks replaced; raises ValueError when it has none."""
    begin, end = f"<!-- BEGIN_{mark} -->\n", f"<!-- END_{mark} -->\n"
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"the README lacks {begin.strip()} or {end.strip()}")
    return f"{before}{begin}{tables}{end}{after}"


def readmes() -> Iterator[tuple[Path, str, str]]:
    """Each README, the word in its marks, and the tables that belong between them."""
    for role in roles():
        yield role / "README.md", "ANSIBLE_DOCS", role_tables(role)
    for module in modules():
        yield module / "README.md", "TF_DOCS", module_tables(module)


def main() -> None:
    """Write the tables of every README anew."""
    for path, mark, tables in readmes():
        path.write_text(replaced(path.read_text(), mark, tables))


if __name__ == "__main__":
    main()

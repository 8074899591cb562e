"""What the pages of the repository promise: limits, links, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmarks.__main__ import main as benchmarks_main
from kintsugi.cli import main
from kintsugi.core.fleet import REPOSITORY
from kintsugi.installation.former_commands import MOVED, RENAMED

SKIPPED = {".venv", "build", "node_modules", ".git", ".terraform"}
PAGES = sorted(
    path for path in REPOSITORY.rglob("*.md") if not SKIPPED.intersection(path.relative_to(REPOSITORY).parts)
)
GUIDES = [path for path in PAGES if "decisions" not in path.parts and path.name != "CHANGELOG.md"]
LINK = re.compile(r'\]\(([^()\s]+)\)|(?:src|srcset|href)="([^"\s]+)"')
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CURRENT = [path for path in PAGES if path.name != "CHANGELOG.md"]
PLACES = "ansible|artifacts|benchmarks|bin|dags|docs|plugins|spark_apps|supply_chain|terraform|tests"
FILE = re.compile(rf"(?<![\w/.<>-])(?:{PLACES})/(?:[\w.-]+/)*[\w.-]*\w")
SETTING = re.compile(r"\bKINTSUGI_[A-Z_]*[A-Z]\b")
DAG = re.compile(r"(?:[Tt]rigger|[Uu]npause|[Pp]ause|DAGs?)\s`(\w+)`")


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def links(path: Path) -> Iterator[str]:
    for found in LINK.finditer(FENCE.sub("", path.read_text())):
        target = found[1] or found[2]
        if not re.match(r"[a-z]+:", target):
            yield target


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def commands(path: Path, program: str) -> set[str]:
    """First arguments of ``program`` in the page's code: in backticks, and in blocks."""
    text = path.read_text()
    code = [*FENCE.findall(text), *CODE.findall(FENCE.sub("", text))]
    return {
        word
        for piece in code
        for word in re.findall(rf"(?:^|[\s;&|]|bin/){program} ([a-z][a-z0-9_-]*)", piece, re.MULTILINE)
    }


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def test_the_readme_is_read_in_two_minutes() -> None:
    text = (REPOSITORY / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1200
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{name_of(page)} links to {target}"


def test_every_file_of_a_page_exists() -> None:
    named = {(page, file) for page in CURRENT for file in FILE.findall(page.read_text())}
    assert len(named) > 100, "the search finds no files any more"
    assert not {
        f"{name_of(page)} names {file}"
        for page, file in named
        if not (REPOSITORY / file).exists() and not (page.parent / file).exists()
    }


def test_every_setting_of_a_page_exists() -> None:
    named = {(page, setting) for page in CURRENT for setting in SETTING.findall(page.read_text())}
    assert len(named) > 10, "the search finds no settings any more"
    sources = [
        path for place in ("bin", "plugins") for path in (REPOSITORY / place).rglob("*") if path.is_file()
    ]
    code = "".join(
        path.read_text(errors="replace") for path in (*sources, REPOSITORY / "docker-compose.yaml")
    )
    intake = "KINTSUGI_INTAKE_"  # the code makes these of two parts
    assert not {
        f"{name_of(page)} names {setting}"
        for page, setting in named
        if setting not in code and f'"{setting.removeprefix(intake)}"' not in code
    }


def test_every_dag_that_a_page_starts_or_pauses_exists() -> None:
    named = {(page, dag) for page in CURRENT for dag in DAG.findall(page.read_text())}
    assert len(named) > 10, "the search finds no DAGs any more"
    files = (REPOSITORY / "dags").glob("*.py")
    dags = {dag for path in files for dag in re.findall(r'dag_id="(\w+)"', path.read_text())}
    assert not {f"{name_of(page)} names {dag}" for page, dag in named if dag not in dags}


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_make_target_of_a_page_exists(page: Path) -> None:
    assert commands(page, "make") <= make_targets()


def test_every_command_of_a_page_exists(capsys: pytest.CaptureFixture[str]) -> None:
    named = {word for page in GUIDES for word in commands(page, "kintsugi")}
    assert {"validate", "release"} <= named, "the search finds no commands any more"
    assert not named & {"chaos", *MOVED, *RENAMED}, "an old name of a command"
    for word in named:
        with pytest.raises(SystemExit) as ended:
            main([word, "--help"])
        assert ended.value.code == 0, f"`kintsugi {word}` is no command"


def test_every_benchmark_of_a_page_exists() -> None:
    named = {word for page in GUIDES for word in commands(page, "benchmarks")}
    assert "bench" in named, "the search finds no benchmarks any more"
    for word in named:
        with pytest.raises(SystemExit) as ended:
            benchmarks_main([word, "--help"])
        assert ended.value.code == 0, f"`python -m benchmarks {word}` is no command"


def test_the_glossary_stays_short() -> None:
    rows = re.findall(r"^\| \*\*", (REPOSITORY / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert 0 < len(rows) <= 40


def test_the_changelog_has_the_version_of_the_project_and_room_for_the_next() -> None:
    project = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project is not None
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(project[1])}\] - \d{{4}}-\d{{2}}-\d{{2}}", headings[1])

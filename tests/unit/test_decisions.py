"""Every page of docs/decisions has one form, and the index lists every page.

After a page was added, renamed, retitled or superseded, run

    python tests/unit/test_decisions.py

It writes the generated part of docs/decisions/README.md, and points all links at renamed pages again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs" / "decisions"
INDEX = DECISIONS / "README.md"
PAGES = sorted(DECISIONS.glob("[0-9]*.md"))
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives"]

LINK = r"\[\d+\]\([^)]+\)"
STATUS = re.compile(rf"Accepted|(?:Partly s|S)uperseded by {LINK}(?:(?:,| and) {LINK})*")
HEAD = re.compile(
    r"# (\d+)\. (\S.*)\n\n"
    r"- \*\*Status:\*\* (\S.*(?:\n  \S.*)*)\n"
    r"- \*\*Date:\*\* (\d{4}-\d\d-\d\d)(?: \(updated \d{4}-\d\d-\d\d\))?\n\n## "
)
FILE_NAME = re.compile(r"(?<![\w-])(\d{4})-[a-z0-9-]+\.md")
GENERATED = "<!-- Written by `python tests/unit/test_decisions.py`; change nothing below. -->\n"


def number_of(page: Path) -> int:
    return int(page.name[:4])


def index_row(page: Path) -> str:
    """Read a page's row of the index: number, decision, status, date. A page without the form gets an empty status."""
    head = HEAD.match(page.read_text())
    if head is None:
        return f"| [{number_of(page)}]({page.name}) | {page.read_text().splitlines()[0].split('. ', 1)[-1]} | | |"
    number, title, status, date = head.groups()
    state = STATUS.match(" ".join(status.split()))
    return f"| [{number}]({page.name}) | {title} | {state.group() if state else ''} | {date} |"


def skipped_numbers() -> Iterator[str]:
    """Yield the numbers between the pages that no page has, as "7 to 9" or "54"."""
    numbers = [number_of(page) for page in PAGES]
    for before, after in pairwise(numbers):
        if after - before > 3:
            yield f"{before + 1} to {after - 1}"
        else:
            yield from map(str, range(before + 1, after))


def expected_index() -> str:
    """The index page with its generated part as the pages demand it."""
    by_hand = INDEX.read_text().partition(GENERATED)[0]
    rows = "\n".join(index_row(page) for page in PAGES)
    return (
        f"{by_hand}{GENERATED}\n"
        f"| number | decision | status | date |\n|---|---|---|---|\n{rows}\n\n"
        f"Numbers never used: {', '.join(skipped_numbers())}.\n"
    )


def texts() -> Iterator[Path]:
    """Yield the files that may link to a page, in docs and code."""
    kinds = {".md", ".py", ".sql", ".tf", ".yaml", ".yml", ".html", ".j2"}
    for path in ROOT.iterdir():
        if path.is_file() and (path.suffix in kinds or path.name in {"Makefile", "Dockerfile"}):
            yield path
        elif path.is_dir() and not path.name.startswith(".") and path.name != "build":
            yield from (file for file in path.rglob("*") if file.is_file() and file.suffix in kinds)


def with_current_links(text: str) -> str:
    """The text with the file names of decisions as they are now; numbers never change."""
    names = {page.name[:4]: page.name for page in PAGES}
    return FILE_NAME.sub(lambda link: names.get(link[1], link[0]), text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_has_the_form(page: Path) -> None:
    text = page.read_text()
    head = HEAD.match(text)
    assert head, "A page begins with '# N. Title', '- **Status:** …', '- **Date:** YYYY-MM-DD', '## Context'."
    assert int(head[1]) == number_of(page)
    assert STATUS.match(" ".join(head[3].split())), (
        "A status is 'Accepted', 'Superseded by [N](file.md)' or 'Partly superseded by [N](file.md)'; more may follow."
    )
    sections = re.findall(r"^## (.+)\n+([^#\s].*|$)", text, re.MULTILINE)
    assert [name for name, _ in sections] == SECTIONS
    assert all(first_line for _, first_line in sections), "A section is empty."


def test_numbers_are_unique() -> None:
    assert len({number_of(page) for page in PAGES}) == len(PAGES)


def test_the_index_lists_every_page_as_it_is() -> None:
    assert INDEX.read_text() == expected_index(), "Run `python tests/unit/test_decisions.py`."


def test_links_lead_to_pages() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {link.group()}"
        for path in texts()
        for link in FILE_NAME.finditer(path.read_text())
        if not (DECISIONS / link.group()).exists()
    ]
    assert not wrong, "Run `python tests/unit/test_decisions.py`."


if __name__ == "__main__":
    for path in texts():
        text = path.read_text()
        if (corrected := with_current_links(text)) != text:
            path.write_text(corrected)
    INDEX.write_text(expected_index())

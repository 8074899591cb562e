"""Every alert has a runbook, every runbook an alert, and every page carries the link."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from kintsugi.core.fleet import REPOSITORY
from kintsugi.db.outbox import MessageKind, OutboxMessage
from kintsugi.notify.dispatcher import text_of
from kintsugi.notify.runbooks import DIRECTORY, HEARTBEAT, INDEX, RUNBOOKS, runbook_link

RUNBOOK_FILES = {path.stem: path for path in (REPOSITORY / DIRECTORY).glob("*.md") if path.stem != INDEX}
SECTIONS = ["Meaning", "Impact", "Check", "Fix", "Escalate"]
MOST_LINES = 60
VARIABLE = re.compile(r"… minutes|…|\(s\)|[()]|\d+|recover_node of|deploy_release")
"""What stands in a title for what the code fills in."""


def page_key_literals() -> Iterator[str]:
    """The constant beginning of every page key that the product's code makes: of an f-string, or kept under a name."""
    for path in (REPOSITORY / "plugins").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            made = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else None
            named = node.value if isinstance(node, ast.Assign) else None
            for value in (made, named):
                if isinstance(value, ast.Constant) and re.match(r"page/[a-z-]+/", str(value.value)):
                    yield str(value.value)


def page_alerts() -> set[str]:
    return {alert for alert in RUNBOOKS if alert.startswith("page/")}


def test_every_page_of_the_code_has_a_runbook_of_its_own() -> None:
    literals = set(page_key_literals())
    assert len(literals) >= 15, "the search finds no keys any more"
    orphans = {
        key for key in literals if not any(key.startswith(a) or a.startswith(key) for a in page_alerts())
    }
    assert not orphans, "add them to RUNBOOKS in notify/runbooks.py, each with its file in docs/runbooks/"


def test_every_page_of_the_table_is_in_the_code() -> None:
    literals = set(page_key_literals())
    unknown = {
        a for a in page_alerts() if not any(key.startswith(a) or a.startswith(key) for key in literals)
    }
    assert not unknown


def test_every_alert_has_a_file_and_every_file_one_alert() -> None:
    assert set(RUNBOOKS.values()) == set(RUNBOOK_FILES)
    assert len(set(RUNBOOKS.values())) == len(RUNBOOKS), "an alert shares its runbook with another one"


def test_every_alert_of_honeycomb_has_a_runbook_and_links_to_it() -> None:
    code = "\n".join(path.read_text() for path in (REPOSITORY / "terraform" / "honeycomb").glob("*.tf"))
    raised = re.findall(r'^resource "honeycombio_(?:trigger|burn_alert)" "(\w+)"', code, re.MULTILINE)
    ours = {alert: name for alert, name in RUNBOOKS.items() if alert.startswith("honeycomb/")}
    assert {f"honeycomb/{name}" for name in raised} == set(ours)
    assert all(f"${{var.runbooks}}/{name}.md" in code for name in ours.values())


@pytest.mark.parametrize("name", sorted(RUNBOOK_FILES))
def test_a_runbook_is_short_and_says_all_five_things_in_order(name: str) -> None:
    text = RUNBOOK_FILES[name].read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert len(text.splitlines()) <= MOST_LINES
    assert not [line for line in text.splitlines() if len(line) > 120 and not line.lstrip().startswith("|")]
    assert not [line for line in text.splitlines() if line.count("`") % 2], "a command is copied as one line"


def constants_of_the_code() -> str:
    """All constant parts of all texts of the product, in order; and Honeycomb's triggers."""
    parts = [path.read_text() for path in (REPOSITORY / "terraform" / "honeycomb").glob("*.tf")]
    for path in (REPOSITORY / "plugins").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
    return "\n".join(parts)


def test_a_runbook_is_found_by_the_title_of_its_page() -> None:
    code = constants_of_the_code()
    for name, path in RUNBOOK_FILES.items():
        head = " ".join(path.read_text().partition("\n> ")[0].split())
        titles = re.findall(r"\*([^*]+)\*", head)
        assert titles or RUNBOOKS[HEARTBEAT] == name, f"{name} has no title"
        for part in (part for title in titles for part in VARIABLE.split(title)):
            assert part.strip() in code, f"{name}: no page has the title {part!r}"


def test_the_index_lists_every_runbook() -> None:
    index = (REPOSITORY / DIRECTORY / f"{INDEX}.md").read_text()
    assert set(re.findall(r"\]\(([a-z-]+)\.md\)", index)) == set(RUNBOOK_FILES)


@pytest.mark.parametrize(
    ("alert", "name"),
    [
        ("page/refused/kafka-2-1/0", "repair-refused"),
        ("page/overdue/kafka-2-1", "repair-overdue"),
        ("page/overdue/recover_node/manual__1", "repair-overdue"),
        ("page/overdue/deploy_release/manual__1", "rollout-overdue"),
        ("page/stream/still/20261129T0300/1", "stream-stalled"),
        ("page/something-new/1", INDEX),
    ],
)
def test_the_longest_alert_that_fits_names_the_runbook(alert: str, name: str) -> None:
    assert runbook_link(alert) == f"docs/runbooks/{name}.md"


def test_the_link_leads_to_where_the_runbooks_are_published(monkeypatch: pytest.MonkeyPatch) -> None:
    defined = {"conn_type": "apprise", "extra": {"runbooks": "https://wiki.example.org/runbooks/"}}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_APPRISE", json.dumps(defined))
    assert runbook_link("page/store/1") == "https://wiki.example.org/runbooks/store-unavailable.md"


@pytest.mark.parametrize(("kind", "links"), [(MessageKind.PAGE, 1), (MessageKind.DIGEST, 0)])
def test_a_page_carries_the_link_and_a_digest_does_not(kind: MessageKind, links: int) -> None:
    message = OutboxMessage(
        "page/stuck/1/2", kind, {"title": "t", "text": "it stands still"}, datetime.now(UTC), 1
    )
    lines = text_of(message).splitlines()
    assert lines[0] == "it stands still"
    assert lines.count("Runbook: docs/runbooks/repair-stuck.md") == links
    assert lines[-1] == "[page/stuck/1/2]"


def test_no_runbook_is_lost_in_a_folder_below() -> None:
    found = {path for path in (REPOSITORY / DIRECTORY).rglob("*") if path.is_file()}
    assert found == {*RUNBOOK_FILES.values(), REPOSITORY / DIRECTORY / f"{INDEX}.md"}

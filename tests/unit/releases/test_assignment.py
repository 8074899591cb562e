"""A node is configured from a release that knows it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.releases import assignment
from kintsugi.releases.archive import Release
from kintsugi.releases.assignment import digest_to_configure_from
from tests.installations import installation

GOOD, OWN = "a" * 64, "b" * 64


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The known-good release has every node but kafka-4, which runs a newer one."""
    settings = installation(tmp_path, "127.34")
    monkeypatch.setattr(assignment, "open_release", lambda _, digest: Release(digest, tmp_path))
    own = SimpleNamespace(digest=OWN, bad_at=None)
    store = SimpleNamespace(
        node_releases=lambda: dict.fromkeys((*settings.declared_fleet.nodes, "kafka-4"), own),
        last_known_good=lambda: SimpleNamespace(digest=GOOD, bad_at=None),
    )
    return SimpleNamespace(store=store, own=own)


def test_a_node_goes_back_only_to_a_release_that_has_it(context: Any) -> None:
    assert digest_to_configure_from(context, "kafka-3", roll_back=True) == GOOD
    assert digest_to_configure_from(context, "kafka-4", roll_back=True) == OWN


def test_a_new_node_keeps_a_bad_release_rather_than_one_without_it(context: Any) -> None:
    context.own.bad_at = "now"
    assert digest_to_configure_from(context, "kafka-3") == GOOD
    assert digest_to_configure_from(context, "kafka-4") == OWN

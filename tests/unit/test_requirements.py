"""The lock files of the Python packages: every package has its hashes, and no file names an index."""

from __future__ import annotations

import re

import pytest

from kintsugi.core.fleet import REPOSITORY

FILES = ("requirements.txt", "requirements-dev.txt", "requirements-uv.txt")
PACKAGE = re.compile(r"([a-z0-9][a-z0-9-]*)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


def versions(name: str) -> dict[str, str]:
    return {match[1]: match[2] for match in PACKAGE.finditer((REPOSITORY / name).read_text())}


@pytest.mark.parametrize("name", FILES)
def test_every_package_has_a_hash_and_no_index_is_named(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    rest = PACKAGE.sub("", text)
    assert all(line.startswith("#") for line in rest.splitlines()), rest
    assert "://" not in text
    assert versions(name)


def test_both_files_lock_the_same_versions() -> None:
    assert versions("requirements.txt").items() <= versions("requirements-dev.txt").items()


@pytest.mark.parametrize("name", FILES)
def test_the_bootstrap_installs_it_with_its_hashes(name: str) -> None:
    bootstrap = (REPOSITORY / "bin/bootstrap").read_text()
    assert name in bootstrap
    installs = re.findall(r"pip install (?:[^\n]|\\\n)*", bootstrap)
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-deps" in install or "--help" in install, install

"""Installations for tests: the fleet on another address block, the state in a directory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kintsugi.fleet import REPOSITORY
from kintsugi.settings import Settings, load_settings


def installation(directory: Path, block: str) -> Settings:
    """The real fleet on ``<block>.x.y`` (as in ``127.33``), with its state below ``directory``."""
    fleet_file = directory / "fleet.yaml"
    fleet_file.parent.mkdir(parents=True, exist_ok=True)
    fleet_file.write_text((REPOSITORY / "fleet.yaml").read_text().replace("127.20.", f"{block}."))
    return Settings(state=directory / "state", cache=load_settings().cache, fleet_file=fleet_file)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that other users may enter, as Postgres' must; pytest closes those of ``tmp_path``."""
    with tempfile.TemporaryDirectory(prefix="kintsugi-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)

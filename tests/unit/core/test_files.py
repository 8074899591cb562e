from __future__ import annotations

import threading
from pathlib import Path

from kintsugi.core.files import hold_lock, write_private


def test_private_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path, entered = tmp_path / "lock", threading.Event()

    def enter() -> None:
        with hold_lock(path):
            entered.set()

    other = threading.Thread(target=enter)
    with hold_lock(path):
        other.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    other.join()

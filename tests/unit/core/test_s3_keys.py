"""The keys of S3; what the server makes of them is in tests/integration/test_s3_keys.py."""

from __future__ import annotations

import re
from pathlib import Path

from kintsugi.core import s3_keys
from kintsugi.core.s3_keys import RIGHTS, S3Purpose, current_key, secret_name
from kintsugi.core.settings import replace_secret
from tests.installations import installation


def test_each_purpose_has_its_rights_and_a_line_in_the_table() -> None:
    assert set(RIGHTS) == set(S3Purpose)
    assert s3_keys.__doc__ is not None
    for purpose in S3Purpose:
        assert re.search(rf"^{purpose} ", s3_keys.__doc__, re.MULTILINE), purpose


def test_a_prefix_ends_with_its_slash() -> None:
    """Else a right to ``releases`` would be one to ``releases-of-others/`` too."""
    prefixes = [
        prefix for rights in RIGHTS.values() for prefix in (*rights.read, *rights.write, *rights.delete)
    ]
    assert [prefix for prefix in prefixes if not re.fullmatch(r"([a-z-]+/)+", prefix)] == []


def test_a_new_secret_has_another_access_key_which_does_not_show_it(tmp_path: Path) -> None:
    settings = installation(tmp_path, "127.34")
    key = current_key(settings, S3Purpose.PAGE)
    assert current_key(settings, S3Purpose.PAGE) == key
    assert re.fullmatch(r"page-[0-9a-f]{8}", key.access_key)
    replace_secret(settings, secret_name(S3Purpose.PAGE))
    renewed = current_key(settings, S3Purpose.PAGE)
    assert renewed.access_key != key.access_key
    assert renewed.access_key[-8:] not in renewed.secret

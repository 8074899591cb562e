"""The set-up script looks for programs, not for functions of its own."""

from __future__ import annotations

import re

from kintsugi.core.fleet import REPOSITORY


def test_no_function_hides_a_program_that_the_script_looks_for() -> None:
    script = (REPOSITORY / "bin/bootstrap").read_text()
    functions = set(re.findall(r"^(\w+)\(\)", script, re.MULTILINE))
    wanted = set(re.findall(r"\bhas (\w[\w.]*)", script))
    assert {"java", "terraform"} <= wanted
    assert not functions & wanted, "`command -v` finds the function and takes the program for installed"

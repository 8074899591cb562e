"""The setting of the users, and in whose name a process acts."""

from __future__ import annotations

import os
import pwd
from types import SimpleNamespace

import pytest

from kintsugi.core.errors import PreflightError
from kintsugi.core.processes import MARKER
from kintsugi.core.users import (
    UserRole,
    actor_of_run,
    current_actor,
    first_admin,
    format_users,
    is_reserved_name,
    operating_user,
    parse_users,
)

THREE = {"ana": UserRole.ADMIN, "ben": UserRole.OPERATOR, "eve.b-1_": UserRole.VIEWER}


def test_users_are_read_as_they_are_written() -> None:
    assert parse_users(" ana:admin, ben : operator,eve.b-1_:viewer ") == THREE
    assert parse_users(format_users(THREE)) == THREE


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ana", "'ana'"),
        ("ana:", "'ana:'"),
        ("ana:admin,", "''"),
        ("ana:admin:team", "'admin:team'"),
        ("ana:op,ben:admin", "'op'"),
        ("ana:Admin", "'Admin'"),
        ("ana:admin,ana:viewer", "ana twice"),
        ("ana:operator,ben:viewer", "no admin"),
        ("kintsugi:admin", "control plane itself"),
        (":admin", "''"),
        *(
            (f"{name}:admin", "a name has")
            for name in ("Ana", "a b", "../x", "a/b", "-a", ".a", "a'b", "a$b", "ä")
        ),
        *((f"{name}:admin", "a name has") for name in ("a\nb", "a" * 33, "1a", "root (command line)")),
    ],
)
def test_a_wrong_setting_is_refused_by_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(PreflightError, match="KINTSUGI_USERS") as refused:
        parse_users(text)
    assert named in str(refused.value)


@pytest.mark.parametrize("name", ["kintsugi", "ana (command line)"])
def test_no_user_can_have_the_name_of_another_actor(name: str) -> None:
    assert is_reserved_name(name)
    assert not is_reserved_name("ana")
    with pytest.raises(PreflightError):
        parse_users(f"{name}:admin")


def test_the_control_plane_and_a_person_on_the_command_line_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert current_actor({MARKER: "/var/lib/kintsugi/control", "SUDO_USER": "ana"}) == "kintsugi"
    assert current_actor({"SUDO_USER": "ana"}) == "ana (command line)"
    assert current_actor({"SUDO_USER": "ben"}) == "ben (command line)"
    assert is_reserved_name(current_actor({}))


def test_who_called_sudo_counts_for_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert operating_user({"SUDO_USER": "ana"}) == "ana"
    assert operating_user({}) == "root"
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "getuid", lambda: nobody.pw_uid)
    assert operating_user({"SUDO_USER": "ana", "USER": "ana", "LOGNAME": "ana"}) == "nobody"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert operating_user({}) == "uid 4000000000"


@pytest.mark.parametrize(
    ("caller", "name"),
    [
        ("ana", "ana"),
        ("Ana", "ana"),
        ("root", "admin"),
        ("kintsugi", "admin"),
        ("DOM\\ana", "admin"),
        ("", "admin"),
    ],
)
def test_the_first_admin_is_the_person_who_starts_it(
    caller: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert first_admin({"SUDO_USER": caller}) == name


@pytest.mark.parametrize(
    ("run", "actor"),
    [
        (SimpleNamespace(triggering_user_name="ana"), "ana"),
        (SimpleNamespace(triggering_user_name=None), "somebody"),
        (SimpleNamespace(), "somebody"),
    ],
)
def test_a_run_names_who_started_it(run: SimpleNamespace, actor: str) -> None:
    assert actor_of_run(run) == actor

"""A change of a role is complete when a majority of the nodes has it; what builds on it waits for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra import InvalidRequest
from cassandra.cluster import NoHostAvailable

from kintsugi.core.certificates import Login, Principal
from kintsugi.core.errors import KintsugiError
from kintsugi.pipeline import authorization

LOGIN = Login(Principal.PROBE, "probe_0aee0184", "secret")


class Cluster:
    """Cassandra's roles at three nodes, of which ``late`` ones learn a change after so many questions."""

    def __init__(self, late: dict[str, int]) -> None:
        self.hosts = [SimpleNamespace(address=name, is_up=True) for name in ("a", "b", "c")]
        self.cluster = SimpleNamespace(metadata=SimpleNamespace(all_hosts=lambda: self.hosts))
        self.late = late
        self.written: list[str] = []
        self.unheard: dict[str, int] = {}

    def execute(self, statement: str, host: Any = None) -> Sequence[Any]:
        if not statement.startswith("LIST"):
            unknown = [host.address for host in self.hosts if host.is_up and self.unheard.get(host.address)]
            if statement.startswith("GRANT") and unknown:
                raise InvalidRequest(f"<role {LOGIN.role}> doesn't exist at {unknown}")
            self.written.append(statement.split(maxsplit=1)[0])
            self.unheard = dict(self.late)
            return []
        if self.unheard.get(host.address):
            self.unheard[host.address] -= 1
            if self.written == ["CREATE"]:
                raise InvalidRequest(f"<role {LOGIN.role}> doesn't exist")
            return []
        return [SimpleNamespace(role="probe")] if "GRANT" in self.written else []


def test_a_login_is_granted_its_rights_when_every_node_knows_it() -> None:
    cluster = Cluster({"b": 2, "c": 5})
    authorization.create_login(cluster, LOGIN)
    assert cluster.written == ["CREATE", "GRANT"]
    assert not any(cluster.unheard.values()), "a client that connects to this node now is refused"


def test_a_node_that_never_learns_of_a_login_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "ROLE_SECONDS", 0.3)
    with pytest.raises(KintsugiError, match=r"c doesn't know the role probe_0aee0184 .* look at the node"):
        authorization.create_login(Cluster({"c": 10_000}), LOGIN)


def test_a_node_that_is_down_is_not_waited_for() -> None:
    cluster = Cluster({"c": 10_000})
    cluster.hosts[2].is_up = False
    authorization.create_login(cluster, LOGIN)
    assert cluster.written == ["CREATE", "GRANT"]


class Connected:
    """Two nodes, of which the second has clients with these logins, asked again and again; None: it can't be asked."""

    def __init__(self, *answers: list[str] | None) -> None:
        hosts = [SimpleNamespace(address=name, is_up=True) for name in ("a", "b")]
        self.cluster = SimpleNamespace(metadata=SimpleNamespace(all_hosts=lambda: hosts))
        self.answers = list(answers)
        self.dropped: list[str] = []

    def execute(self, statement: str, host: Any = None) -> Sequence[Any]:
        if statement == "LIST ROLES":
            return [SimpleNamespace(role=role) for role in ("probe", "probe_00000000", LOGIN.role, "ana")]
        if statement.startswith("DROP"):
            self.dropped.append(statement.rsplit(maxsplit=1)[-1])
            return []
        if host.address == "a":
            return [SimpleNamespace(username=LOGIN.role)]
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise NoHostAvailable("down", {})
        return [SimpleNamespace(username=username) for username in answer]


def test_an_old_login_is_dropped_when_the_last_client_has_left_it() -> None:
    session = Connected(["probe_00000000", LOGIN.role], None, [LOGIN.role])
    assert authorization.drop_other_logins(session, [LOGIN]) == ["probe_00000000"]
    assert session.dropped == ["probe_00000000"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (["probe_00000000"], "a client of b still uses probe_00000000: restart it"),
        (None, "b can't say who is connected"),
    ],
)
def test_no_login_is_dropped_while_one_may_be_in_use(
    monkeypatch: pytest.MonkeyPatch, answer: list[str] | None, said: str
) -> None:
    monkeypatch.setattr(authorization, "UNUSED_SECONDS", 0.2)
    session = Connected(answer)
    with pytest.raises(KintsugiError, match=said):
        authorization.drop_other_logins(session, [LOGIN])
    assert session.dropped == []

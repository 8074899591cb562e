"""What a DAG of a person writes down names the user who started its run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.chaos import command
from kintsugi.operations.context import Context
from kintsugi.pipeline.ingest import redrive
from kintsugi.recovery import maintenance

PEOPLE = pytest.mark.parametrize("user", ["olga", "otto"])


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom the acts name, in their order."""
    names: list[str] = []

    def act(*_: Any, user: str, **__: Any) -> str:
        names.append(user)
        return ""

    monkeypatch.setattr(Context, "from_environment", lambda: SimpleNamespace(store=None))
    monkeypatch.setattr(command, "stop_chaos", act)
    monkeypatch.setattr(command, "resume_chaos", act)
    monkeypatch.setattr(maintenance, "set_healing", act)
    monkeypatch.setattr(redrive, "redrive_files", act)
    return names


def run_as(dag: Any, user: str, conf: dict[str, Any]) -> None:
    """Run the DAG in this process as a run that ``user`` started."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with pytest.MonkeyPatch.context() as patch:
        start = DagRun.__init__

        def started_by(self: DagRun, *arguments: Any, **given: Any) -> None:
            start(self, *arguments, **given | {"triggering_user_name": user})

        patch.setattr(DagRun, "__init__", started_by)
        run = dag.test(run_conf=conf)
    assert {str(ti.state) for ti in run.get_task_instances()} == {"success"}
    with create_session() as session:
        assert session.get_one(DagRun, run.id).triggering_user_name == user


@PEOPLE
@pytest.mark.parametrize("action", ["stop", "resume"])
def test_who_switched_chaos(dag_bag: Any, named: list[str], user: str, action: str) -> None:
    run_as(dag_bag.dags["chaos_switch"], user, {"action": action})
    assert named == [user]


@PEOPLE
@pytest.mark.parametrize("healing", ["pause", "resume"])
def test_who_paused_or_resumed_recovery(dag_bag: Any, named: list[str], user: str, healing: str) -> None:
    run_as(dag_bag.dags["maintenance"], user, {"healing": healing})
    assert named == [user]


@PEOPLE
def test_who_takes_files_again(dag_bag: Any, named: list[str], user: str) -> None:
    run_as(dag_bag.dags["redrive_files"], user, {"keys": []})
    assert named == [user]

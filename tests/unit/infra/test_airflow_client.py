"""The client against a server that answers as Airflow's API does (recorded forms)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.infra.airflow_client import TOKEN_S, Airflow, AirflowRefused, sign_token

TASK = {"state": "success", "end_date": None, "try_number": 1, "map_index": -1}


class Api:
    """Answers by (method, path) without the query; counts tokens; knows only its newest one."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.tokens = 0

    def new_token(self) -> str:
        self.tokens += 1
        return f"token-{self.tokens}"

    def answer(self, method: str, path: str, body: Any, authorization: str | None) -> tuple[int, Any]:
        self.calls.append((method, path, body))
        if path.startswith("/api/v2/monitor/"):
            return 200, self.answers[method, path]
        if authorization != f"Bearer token-{self.tokens}":
            return 401, {"detail": "Invalid JWT token"}
        found = self.answers.get((method, path.partition("?")[0]), (404, {"detail": "not found"}))
        status, document = found(path) if callable(found) else found
        return status, document


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def airflow(api: Api) -> Iterator[Airflow]:
    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, document = api.answer(self.command, self.path, body, self.headers.get("Authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        do_GET = do_POST = do_PATCH = do_PUT = _respond  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.34.8.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Airflow(f"http://127.34.8.1:{server.server_port}", api.new_token)
    server.shutdown()
    server.server_close()


def test_each_request_carries_a_new_token_and_none_a_password(api: Api, airflow: Airflow) -> None:
    api.answers["GET", "/api/v2/dags"] = (200, {"dags": []})
    airflow.dags()
    airflow.dags()
    assert api.tokens == 2
    api.tokens = 7
    airflow.dags()
    assert api.tokens == 8
    assert {path.partition("?")[0] for _, path, _ in api.calls} == {"/api/v2/dags"}


def test_a_token_is_short_lived_and_signed_with_airflows_secret() -> None:
    token = sign_token("s" * 64, "kintsugi", "admin")
    claims = jwt.decode(token, "s" * 64, algorithms=["HS512"], audience="apache-airflow")
    assert (claims["sub"], claims["role"]) == ("kintsugi", "admin")
    assert claims["exp"] - claims["iat"] == TOKEN_S <= 120
    assert sign_token("s" * 64, "kintsugi", "admin") != token
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, "x" * 64, algorithms=["HS512"], audience="apache-airflow")


def test_a_wrong_token_is_an_error_in_one_line_without_the_token(api: Api, airflow: Airflow) -> None:
    airflow.token = lambda: "wrong"
    with pytest.raises(StepFailed, match="401") as caught:
        airflow.dags()
    assert "wrong" not in str(caught.value)


def test_same_run_id_twice_is_one_run(api: Api, airflow: Airflow) -> None:
    api.answers["GET", "/api/v2/dags/ingest"] = (200, {})
    api.answers["POST", "/api/v2/dags/ingest/dagRuns"] = (409, {"detail": "already exists"})
    assert airflow.trigger("ingest", {"a": 1}, run_id="once") == "once"
    with pytest.raises(AirflowRefused):
        airflow.trigger("ingest")


def test_the_youngest_run_is_asked_for_by_the_time_from_which_it_may_run(api: Api, airflow: Airflow) -> None:
    runs: list[dict[str, Any]] = [{"dag_run_id": "b", "state": "running"}]

    def answer(path: str) -> tuple[int, Any]:
        assert path.endswith("?limit=1&order_by=-run_after")
        return 200, {"dag_runs": runs}

    api.answers["GET", "/api/v2/dags/ingest/dagRuns"] = answer
    assert airflow.youngest_run("ingest") == runs[0]
    runs.clear()
    assert airflow.youngest_run("ingest") is None


def test_unknown_dag_is_told_with_the_import_error_behind_it(api: Api, airflow: Airflow) -> None:
    trace = "Traceback\n  File x\nModuleNotFoundError: No module named 'pyspork'"
    errors = [{"filename": "dags/broken.py", "stack_trace": trace}]
    api.answers["GET", "/api/v2/importErrors"] = (200, {"import_errors": errors})
    with pytest.raises(StepFailed, match=r"dags/broken\.py.*pyspork"):
        airflow.await_dag("broken", seconds=0.1)


def test_tasks_come_from_all_pages_in_order_of_their_start(api: Api, airflow: Airflow) -> None:
    starts = {"third": None, "first": "2026-01-01T00:00:01Z", "second": "2026-01-01T00:00:02Z"}
    entries = [{**TASK, "task_id": name, "start_date": start} for name, start in starts.items()]

    def page(path: str) -> tuple[int, Any]:
        offset = int(path.rpartition("offset=")[2])
        return 200, {"task_instances": entries[offset : offset + 2], "total_entries": 3}

    api.answers["GET", "/api/v2/dags/d/dagRuns/r%2F1/taskInstances"] = page
    assert [task.task_id for task in airflow.tasks("d", "r/1")] == ["first", "second", "third"]


def test_run_that_does_not_end_is_an_error_with_its_state(api: Api, airflow: Airflow) -> None:
    api.answers["GET", "/api/v2/dags/d/dagRuns/r"] = (200, {"state": "running"})
    with pytest.raises(StepFailed, match=r"\brunning\b"):
        airflow.await_run("d", "r", 0.05, pause=0.01)
    api.answers["GET", "/api/v2/dags/d/dagRuns/r"] = (200, {"state": "failed"})
    assert airflow.await_run("d", "r", 5) == "failed"


def test_pool_is_changed_if_it_is_there_and_made_if_not(api: Api, airflow: Airflow) -> None:
    api.answers["POST", "/api/v2/pools"] = (201, {})
    airflow.ensure_pool("recovery", 4)
    assert api.calls[-1][2]["name"] == "recovery"
    api.answers["PATCH", "/api/v2/pools/recovery"] = (200, {})
    airflow.ensure_pool("recovery", 5)
    assert api.calls[-1][0] == "PATCH"


def test_health_names_what_is_not_well_and_is_empty_when_airflow_is_away(api: Api, airflow: Airflow) -> None:
    health = {
        "metadatabase": {"status": "healthy"},
        "scheduler": {"status": "unhealthy"},
        "triggerer": {"status": "healthy"},
        "dag_processor": {"status": None},
    }
    api.answers["GET", "/api/v2/monitor/health"] = health
    assert airflow.unhealthy() == ["scheduler", "dag_processor"]
    away = Airflow("http://127.34.8.2:1", lambda: "right")
    assert away.health() == {}
    assert not away.healthy()
    with pytest.raises(StepFailed, match=r"127\.34\.8\.2:1") as caught:
        away.dags()
    assert isinstance(caught.value.__cause__, OSError)


def test_what_a_task_pushed_is_read_and_nothing_is_no_error(api: Api, airflow: Airflow) -> None:
    path = "/api/v2/dags/d/dagRuns/r%2F1/taskInstances/finish/xcomEntries/result"
    assert airflow.xcom("d", "r/1", "finish", "result") is None
    api.answers["GET", path] = (200, {"key": "result", "value": {"state": "replaced"}})
    assert airflow.xcom("d", "r/1", "finish", "result") == {"state": "replaced"}


def test_the_runs_of_a_dag_that_ends_are_ended_and_no_other_begins(api: Api, airflow: Airflow) -> None:
    runs = [{"dag_run_id": "new", "state": "running"}, {"dag_run_id": "old", "state": "failed"}]
    api.answers["GET", "/api/v2/dags/watch_kafka-4"] = (200, {"file_token": "t.1"})
    api.answers["PATCH", "/api/v2/dags/watch_kafka-4"] = (200, {})
    api.answers["GET", "/api/v2/dags/watch_kafka-4/dagRuns"] = (200, {"dag_runs": runs})
    api.answers["PATCH", "/api/v2/dags/watch_kafka-4/dagRuns/new"] = (200, {})
    airflow.end_dag("watch_kafka-4")
    changes = [(path.partition("?")[0], body) for method, path, body in api.calls if method == "PATCH"]
    assert changes == [
        ("/api/v2/dags/watch_kafka-4", {"is_paused": True}),
        ("/api/v2/dags/watch_kafka-4/dagRuns/new", {"state": "success"}),
    ]


def test_to_end_a_dag_that_is_gone_is_no_error(api: Api, airflow: Airflow) -> None:
    airflow.end_dag("watch_kafka-4")
    assert [method for method, _, _ in api.calls] == ["GET"]


@pytest.mark.parametrize("status", [201, 409])
def test_a_file_is_parsed_again_also_if_that_was_asked_for(api: Api, airflow: Airflow, status: int) -> None:
    api.answers["GET", "/api/v2/dags/watch_flow"] = (200, {"file_token": "t.1"})
    api.answers["PUT", "/api/v2/parseDagFile/t.1"] = (status, None)
    airflow.parse_again("watch_flow")
    assert ("PUT", "/api/v2/parseDagFile/t.1", None) in api.calls

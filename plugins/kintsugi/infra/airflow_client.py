"""A client for Airflow's REST API (v2), for the command line, the demo and tests.

No password goes over the port: while Airflow restarts, any user of the machine can bind it and read what is sent. The
client signs a token for each request with the secret that Airflow verifies its own tokens with (`sign_token`). Who gets
such a token can use it for TOKEN_S.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kintsugi.core.errors import StepFailed
from kintsugi.core.processes import wait_until

WAITING = ("awaiting_input", "deferred")  # an answer to a task that has just started to ask may get lost
FINISHED = frozenset({"success", "failed"})
TOKEN_S = 60
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One try of a task, as Airflow records it. Times are UTC, None while not reached."""

    task_id: str
    state: str | None
    start: datetime | None
    end: datetime | None
    try_number: int
    map_index: int


@dataclass(slots=True)
class Airflow:
    """Airflow at ``url``. ``token`` makes a new token, for each request: the secret may not exist yet."""

    url: str
    token: Callable[[], str]
    timeout: float = 30.0  # two cores that start nine servers make an api-server slow

    # --- health -------------------------------------------------------------------------------------------

    def health(self) -> dict[str, str | None]:
        """Return ``{component: "healthy" | "unhealthy" | None}``; empty if the api-server doesn't answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=3) as answer:  # noqa: S310 - our own URL
                document: dict[str, Mapping[str, Any]] = json.load(answer)
        except (OSError, ValueError):
            return {}
        return {name: part.get("status") for name, part in document.items()}

    def unhealthy(self) -> list[str]:
        """Return the components that aren't healthy now."""
        health = self.health()
        return [name for name in COMPONENTS if health.get(name) != "healthy"]

    def healthy(self) -> bool:
        """Whether all components are healthy."""
        return not self.unhealthy()

    # --- DAGs ---------------------------------------------------------------------------------------------

    def dags(self) -> list[dict[str, Any]]:
        """Return all DAGs in the form of ``GET /api/v2/dags``."""
        dags: list[dict[str, Any]] = self.call("GET", "/dags?limit=100&exclude_stale=true")["dags"]
        return dags

    def youngest_run(self, dag_id: str) -> dict[str, Any] | None:
        """Return the youngest run of a DAG in the form of Airflow's API; None without a run."""
        runs = self.call("GET", f"/dags/{_quote_segment(dag_id)}/dagRuns?limit=1&order_by=-run_after")[
            "dag_runs"
        ]
        return next(iter(runs), None)

    def await_dag(self, dag_id: str, seconds: float = 60) -> None:
        """Wait until the dag-processor has parsed ``dag_id``; raises StepFailed with the reason if it can't."""
        if not wait_until(
            lambda: self._call_or_none("GET", f"/dags/{_quote_segment(dag_id)}") is not None,
            seconds,
            pause=0.3,
        ):
            raise StepFailed(
                f"Airflow knows no DAG {dag_id!r} after {seconds:.0f} s; {self._import_errors()}"
            )

    def unpause(self, *dag_ids: str) -> None:
        """Unpause these DAGs, after each is parsed."""
        for dag_id in dag_ids:
            self.await_dag(dag_id)
            self.call("PATCH", f"/dags/{_quote_segment(dag_id)}?update_mask=is_paused", {"is_paused": False})

    def pause(self, dag_id: str) -> None:
        """Pause ``dag_id``: no run and no task of a running run starts. Its triggers go on, and may fire."""
        self.call("PATCH", f"/dags/{_quote_segment(dag_id)}?update_mask=is_paused", {"is_paused": True})

    def parse_again(self, dag_id: str) -> None:
        """Let the dag-processor parse the file of ``dag_id`` now; does nothing if Airflow has no such DAG."""
        dag = self._call_or_none("GET", f"/dags/{_quote_segment(dag_id)}")
        if dag is None:
            return
        try:
            self.call("PUT", f"/parseDagFile/{_quote_segment(dag['file_token'])}")
        except AirflowRefused as refused:
            if refused.status != 409:  # it was asked for already
                raise

    def end_dag(self, dag_id: str) -> None:
        """Pause ``dag_id`` and end its runs; their triggers end with them. Does nothing if Airflow has no such DAG."""
        if self._call_or_none("GET", f"/dags/{_quote_segment(dag_id)}") is None:
            return
        self.pause(dag_id)
        for run in self.runs(dag_id):
            if run["state"] not in FINISHED:
                path = f"/dags/{_quote_segment(dag_id)}/dagRuns/{_quote_segment(run['dag_run_id'])}"
                self.call("PATCH", f"{path}?update_mask=state", {"state": "success"})

    def import_errors(self) -> list[dict[str, Any]]:
        """Return the DAG files that can't be imported: ``filename`` and ``stack_trace``."""
        errors: list[dict[str, Any]] = self.call("GET", "/importErrors?limit=100")["import_errors"]
        return errors

    def _import_errors(self) -> str:
        errors = self.import_errors()
        if not errors:
            return "no file failed to import: is it in dags/?"
        last = str(errors[0]["stack_trace"]).strip().splitlines()[-1]
        return f"{errors[0]['filename']} cannot be imported: {last}"

    # --- runs ---------------------------------------------------------------------------------------------

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """Start a run of ``dag_id`` and return its id. A repetition with the same ``run_id`` starts no second run."""
        self.await_dag(dag_id)
        body: dict[str, Any] = {"logical_date": None, "conf": dict(conf or {})}
        if run_id:
            body["dag_run_id"] = run_id
        try:
            return str(self.call("POST", f"/dags/{_quote_segment(dag_id)}/dagRuns", body)["dag_run_id"])
        except AirflowRefused as refused:
            if run_id and refused.status == 409:
                return run_id
            raise

    def runs(self, dag_id: str, limit: int = 10) -> list[dict[str, Any]]:
        """Return the newest runs of ``dag_id``, newest first."""
        path = f"/dags/{_quote_segment(dag_id)}/dagRuns?order_by=-run_after&limit={limit}"
        runs: list[dict[str, Any]] = self.call("GET", path)["dag_runs"]
        return runs

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        return str(
            self.call("GET", f"/dags/{_quote_segment(dag_id)}/dagRuns/{_quote_segment(run_id)}")["state"]
        )

    def await_run(self, dag_id: str, run_id: str, seconds: float, *, pause: float = 0.5) -> str:
        """Wait until the run has finished and return its state; raises StepFailed after ``seconds``."""
        deadline = time.monotonic() + seconds
        while (state := self.run_state(dag_id, run_id)) not in FINISHED:
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"the run {run_id} of {dag_id} is still {state} after {seconds:.0f} s: see {self.url}"
                )
            time.sleep(pause)
        return state

    def replay(self, choice: Mapping[str, Any], seconds: float) -> None:
        """Send trade files of S3 again, and wait until all are in Kafka; raises StepFailed if that fails.

        ``choice``: the fields of the form of `replay_trades`.
        """
        run_id = self.trigger("replay_trades", choice)
        if (state := self.await_run("replay_trades", run_id, seconds)) != "success":
            raise StepFailed(
                f"the replay {run_id} ended {state}: clear its task in Airflow; it then continues where it stopped"
            )

    def tasks(self, dag_id: str, run_id: str) -> list[TaskRun]:
        """Return the tasks of one run with state and times, in order of their start."""
        path = f"/dags/{_quote_segment(dag_id)}/dagRuns/{_quote_segment(run_id)}/taskInstances?limit=100"
        tasks = [_task_run(entry) for entry in self._pages(path, "task_instances")]
        never = datetime.max.replace(tzinfo=UTC)
        return sorted(tasks, key=lambda task: task.start or never)

    def running_tasks(self) -> list[dict[str, Any]]:
        """Return the tasks whose process runs now, in the form of Airflow's API: ``dag_id task_id pool``."""
        return self._pages("/dags/~/dagRuns/~/taskInstances?limit=100&state=running", "task_instances")

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        """Return what a task of the run pushed under ``key``, as Airflow stores it; None if there is nothing."""
        run = f"/dags/{_quote_segment(dag_id)}/dagRuns/{_quote_segment(run_id)}"
        path = f"{run}/taskInstances/{_quote_segment(task_id)}/xcomEntries/{_quote_segment(key)}"
        entry = self._call_or_none("GET", path)
        return None if entry is None else entry["value"]

    def questions(self) -> list[dict[str, Any]]:
        """Return the open questions, each with ``dag_id run_id task_id subject body options``."""
        details = self._pages(
            "/dags/~/dagRuns/~/hitlDetails?limit=100&response_received=false", "hitl_details"
        )
        return [
            {
                "dag_id": one["task_instance"]["dag_id"],
                "run_id": one["task_instance"]["dag_run_id"],
                "task_id": one["task_instance"]["task_id"],
                "subject": one["subject"],
                "body": one["body"],
                "options": one["options"],
            }
            for one in details
            if not one["response_received"] and one["task_instance"]["state"] in WAITING
        ]

    def answer(self, question: Mapping[str, Any], option: str) -> None:
        """Answer one of ``questions`` in the name that the token has."""
        dag, run, task = (
            urllib.parse.quote(question[part], safe="") for part in ("dag_id", "run_id", "task_id")
        )
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails"
        self.call("PATCH", path, {"chosen_options": [option], "params_input": {}})

    def answer_all(self, dag_ids: Collection[str], option: str) -> None:
        """Answer every open question in the runs of these DAGs."""
        for question in self.questions():
            if question["dag_id"] in dag_ids:
                self.answer(question, option)

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """Return the log of one try of a task as plain lines."""
        run = f"/dags/{_quote_segment(dag_id)}/dagRuns/{_quote_segment(run_id)}"
        content = self.call("GET", f"{run}/taskInstances/{_quote_segment(task_id)}/logs/{try_number}").get(
            "content", []
        )
        return "\n".join(
            entry if isinstance(entry, str) else str(entry.get("event", "")) for entry in content
        )

    # --- pools --------------------------------------------------------------------------------------------

    def ensure_pool(self, name: str, slots: int) -> None:
        """Create the pool, or set its number of slots."""
        body = {"pool": name, "slots": slots, "description": "", "include_deferred": False}
        if self._call_or_none("PATCH", f"/pools/{_quote_segment(name)}?update_mask=slots", body) is None:
            body["name"] = body.pop("pool")
            self.call("POST", "/pools", body)

    # --- transport ----------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call ``/api/v2<path>``. Raises StepFailed if Airflow does not answer or refuses."""
        return self._send(method, f"/api/v2{path}", body)

    def _call_or_none(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        try:
            return self.call(method, path, body)
        except AirflowRefused as refused:
            if refused.status != 404:
                raise
            return None

    def _pages(self, path: str, key: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"{path}&offset={len(entries)}")
            entries += page[key]
            if not page[key] or len(entries) >= page["total_entries"]:
                return entries

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token()}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            detail = error.read(2000).decode(errors="replace")
            raise AirflowRefused(
                error.code, f"Airflow refused {method} {path} ({error.code}): {detail}"
            ) from error
        except OSError as error:
            raise StepFailed(f"Airflow does not answer at {self.url} ({error}): see `make status`") from error
        document: dict[str, Any] = json.loads(text) if text else {}
        return document


class AirflowRefused(StepFailed):
    """Airflow answered with an HTTP error; ``status``: its code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def sign_token(secret: str, user: str, role: str) -> str:
    """Make the token that Airflow's SimpleAuthManager would make after a sign-in, good for TOKEN_S.

    ``secret``: Airflow's ``[api_auth] jwt_secret``. The claims are those of `airflow.api_fastapi.auth.tokens`.
    """
    import jwt

    now = int(time.time())
    claims = {
        "sub": user,
        "role": role,
        "teams": None,
        "aud": "apache-airflow",
        "jti": uuid.uuid4().hex,
        "nbf": now,
        "iat": now,
        "exp": now + TOKEN_S,
    }
    return jwt.encode(claims, secret, algorithm="HS512", headers={"kid": "not-used"})


def read_token(path: Path) -> str:
    """Return the token in a file that the user keeps up to date; raises StepFailed if there is none."""
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise StepFailed(f"cannot read the token for Airflow in {path}: {error.strerror}") from error
    if not token:
        raise StepFailed(f"{path} holds no token for Airflow: write one into it")
    return token


def _quote_segment(part: str) -> str:
    return urllib.parse.quote(part, safe="")


def _task_run(entry: Mapping[str, Any]) -> TaskRun:
    return TaskRun(
        task_id=entry["task_id"],
        state=entry["state"],
        start=_parse_time(entry["start_date"]),
        end=_parse_time(entry["end_date"]),
        try_number=entry["try_number"],
        map_index=entry["map_index"],
    )


def _parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None

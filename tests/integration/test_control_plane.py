"""The control plane on real servers: what is killed comes back with its data, and nothing stays behind."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from rich.console import Console

from kintsugi.controlplane import accounts
from kintsugi.controlplane.airflow_environment import AIRFLOW_PART, read_environment
from kintsugi.controlplane.airflow_keys import JWT_SECRET, key_environment
from kintsugi.controlplane.control_plane import AIRFLOW, POOLS, STORAGE, ControlPlane
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE
from kintsugi.core.connections import s3_client, store_dsn
from kintsugi.core.processes import owned_pids, wait_until
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET
from kintsugi.infra.airflow_client import sign_token
from kintsugi.installation.airflow_key_rotation import replace_keys
from kintsugi.installation.up import remove_installation
from tests.installations import installation, open_directory


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with open_directory() as directory:
        plane = ControlPlane(installation(directory, "127.54"))
        try:
            plane.start_storage()
            yield plane
        finally:
            plane.remove()


def _pid(plane: ControlPlane, name: str) -> int:
    return int(plane.status()[name]["pid"])


def _lives(pid: int) -> bool:
    """Whether ``pid`` runs; an orphan that has ended may wait for the init to take note (state Z)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def _kill_and_await_return(plane: ControlPlane, name: str) -> None:
    first = _pid(plane, name)
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: _pid(plane, name) not in (0, first), 20), f"{name} did not come back"


def _write_everywhere(plane: ControlPlane, text: str) -> None:
    with psycopg.connect(store_dsn(plane.settings), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        connection.execute("INSERT INTO note VALUES (%s)", (text,))
    s3_client(plane.settings, S3Purpose.INCIDENTS).put_object(
        Bucket=BUCKET, Key=f"incidents/{text}", Body=text.encode()
    )


def _reads_everywhere(plane: ControlPlane, text: str) -> bool:
    with psycopg.connect(store_dsn(plane.settings)) as connection:
        row = connection.execute("SELECT count(*) FROM note WHERE text = %s", (text,)).fetchone()
    s3 = s3_client(plane.settings, S3Purpose.PAGE)
    body = s3.get_object(Bucket=BUCKET, Key=f"incidents/{text}")["Body"].read()
    return row == (1,) and body == text.encode()


@pytest.mark.parametrize("victim", STORAGE)
def test_killed_component_comes_back_with_its_data(plane: ControlPlane, victim: str) -> None:
    _write_everywhere(plane, f"before the death of {victim}")
    _kill_and_await_return(plane, victim)
    plane.start_storage()  # waits until all answer
    assert _reads_everywhere(plane, f"before the death of {victim}")


def test_a_control_plane_of_the_last_version_is_restarted_with_its_data(plane: ControlPlane) -> None:
    _write_everywhere(plane, "by the last version")
    shutil.rmtree(plane.postgres.socket)  # it had none
    plane.start_storage()
    assert _reads_everywhere(plane, "by the last version")


def test_the_one_key_of_the_last_version_ends_with_it(plane: ControlPlane) -> None:
    """Its S3 runs on until the start, which exchanges it, and everybody has the key of his purpose then."""
    _write_everywhere(plane, "by the one key")
    plane.objects.keys_file.unlink()  # it had none
    only, before = plane.settings.secrets / "s3", _pid(plane, "s3")
    only.write_text("the one key")
    plane.start_storage()
    assert not only.exists()
    assert _pid(plane, "s3") != before
    assert _reads_everywhere(plane, "by the one key")


def test_a_listing_leaves_no_trace_in_the_log_of_s3(plane: ControlPlane) -> None:
    client = s3_client(plane.settings, S3Purpose.INCIDENTS)
    client.put_object(Bucket=BUCKET, Key="incidents/listed/an-object", Body=b"")
    assert client.list_objects_v2(Bucket=BUCKET, Prefix="incidents/listed/")["KeyCount"] == 1
    _kill_and_await_return(plane, "s3")  # what the killed one printed is in the log by then
    plane.start_storage()
    log = (plane.settings.control / "log" / "s3.log").read_text()
    assert "INFO" in log
    assert "an-object" not in log


def test_killed_supervisor_and_the_orphans_it_leaves_are_replaced(plane: ControlPlane) -> None:
    _write_everywhere(plane, "before the death of the supervisor")
    supervisor = plane.supervisor.pid()
    assert supervisor is not None
    orphan = _pid(plane, "s3")
    os.kill(supervisor, signal.SIGKILL)
    assert wait_until(lambda: plane.supervisor.pid() is None, 10)
    assert _lives(orphan), "the components go on without their supervisor"
    plane.start_storage()
    assert plane.supervisor.pid() not in (None, supervisor)
    assert not _lives(orphan)
    assert _reads_everywhere(plane, "before the death of the supervisor")


def test_repeating_the_start_changes_nothing(plane: ControlPlane) -> None:
    before = plane.status()
    plane.start_storage()
    assert plane.status() == before


def test_stale_write_is_refused_by_s3(plane: ControlPlane) -> None:
    from botocore.exceptions import ClientError

    client = s3_client(plane.settings, S3Purpose.INCIDENTS)
    client.put_object(Bucket=BUCKET, Key="incidents/once", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match=r"412|PreconditionFailed"):
        client.put_object(Bucket=BUCKET, Key="incidents/once", Body=b"2", IfNoneMatch="*")


@pytest.mark.timeout(600)
def test_airflow_is_healthy_heals_itself_and_shows_no_secret(plane: ControlPlane) -> None:
    plane.migrate()
    plane.start_airflow()
    assert plane.airflow.healthy()
    pools = {pool["name"]: pool["slots"] for pool in plane.airflow.call("GET", "/pools")["pools"]}
    assert POOLS.items() <= pools.items()
    _no_secret_is_an_argument(plane)
    _kill_and_await_return(plane, "scheduler")
    plane.await_airflow()
    plane.stop_airflow()
    assert not owned_pids(plane.settings.control, AIRFLOW_PART), "workers of the killed scheduler live on"
    assert {plane.status()[name]["state"] for name in AIRFLOW} == {"STOPPED"}
    assert {plane.status()[name]["state"] for name in STORAGE} == {"RUNNING"}


def _status(plane: ControlPlane, method: str, path: str, **arguments: Any) -> tuple[int, Any]:
    """The status of a request and its JSON, as any program at the other end of the port sees it."""
    answer = httpx.request(method, plane.airflow.url + path, timeout=60, **arguments)
    return answer.status_code, answer.json()


@pytest.mark.timeout(600)
def test_a_user_signs_in_until_a_start_names_him_no_more(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign_in(user: str, password: str) -> tuple[int, Any]:
        return _status(plane, "POST", "/auth/token", json={"username": user, "password": password})

    def read_dags(token: str) -> int:
        return _status(plane, "GET", "/api/v2/dags", headers={"Authorization": f"Bearer {token}"})[0]

    monkeypatch.setenv("KINTSUGI_USERS", "ana:admin,ben:operator")
    plane.migrate()
    plane.start_airflow()
    passwords = {name: accounts.password_file(plane.settings, name).read_text() for name in ("ana", "ben")}
    tokens = {}
    for name, password in passwords.items():
        status, document = sign_in(name, password)
        assert status == 201
        tokens[name] = document["access_token"]
        assert read_dags(tokens[name]) == 200
    assert sign_in("ben", passwords["ana"])[0] == 401
    untouched = _pid(plane, "scheduler")
    monkeypatch.setenv("KINTSUGI_USERS", "ana:admin")
    plane.start_airflow()
    assert read_dags(tokens["ana"]) == 200
    assert read_dags(tokens["ben"]) == 403
    assert sign_in("ben", passwords["ben"])[0] == 401
    assert _pid(plane, "scheduler") == untouched
    logs = "".join(path.read_text(errors="replace") for path in (plane.settings.control / "log").iterdir())
    assert not [name for name, password in passwords.items() if password in logs]
    plane.stop_airflow()


@pytest.mark.timeout(900)
def test_new_keys_of_airflow_keep_what_is_stored_and_end_the_old_tokens(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that Airflow has encrypted is read after two rotations, of which one is killed in the middle."""
    password = "the password of a person's own connection"
    plane.migrate()
    plane.start_airflow()
    plane.airflow.call(
        "POST", "/connections", {"connection_id": "own", "conn_type": "http", "password": password}
    )
    plane.airflow.call("POST", "/variables", {"key": "own", "value": password})
    plane.airflow.unpause("ingest_trades")
    assert wait_until(lambda: _deferred(plane) > 0, 60), (
        "a deferred task is what Airflow's own command fails at"
    )
    first, secret = _fernet_keys(plane), plane.settings.secret(JWT_SECRET)
    assert _decrypted(plane, first) == [password, password]
    assert _reads_dags(plane, secret)

    with monkeypatch.context() as patched:
        patched.setattr(ControlPlane, "encrypt_anew", _die)
        patched.setattr(ControlPlane, "start_airflow_again", lambda _: None)  # SIGKILL runs no `finally`
        with pytest.raises(KeyboardInterrupt):
            replace_keys(plane)
    assert not plane.airflow_runs()
    _store_trigger(plane, first[0])
    before = _triggers(plane)
    assert before[True]
    plane.encrypt_anew()
    after = _triggers(plane)
    assert after[True] == before[True]
    new_key, _ = key_environment(plane.settings)["AIRFLOW__CORE__FERNET_KEY"].split(",")
    assert Fernet(new_key.encode()).decrypt(after[False][0].encode()) == b"{}"
    replace_keys(plane)
    assert _fernet_keys(plane) == [new_key]
    assert wait_until(lambda: _deferred(plane) > 0, 30), "a trigger goes on after the restart"
    second = _fernet_keys(plane)
    assert _decrypted(plane, second) == [password, password]
    with pytest.raises(InvalidToken):
        _decrypted(plane, first)
    assert not _reads_dags(plane, secret)
    assert _reads_dags(plane, plane.settings.secret(JWT_SECRET))
    assert plane.airflow.call("GET", "/variables/own")["value"] == password
    assert {plane.status()[name]["state"] for name in (*AIRFLOW, *STORAGE)} == {"RUNNING"}

    pids = {name: _pid(plane, name) for name in AIRFLOW}
    plane.start_airflow()
    assert {name: _pid(plane, name) for name in AIRFLOW} == pids, "`make up` finds nothing to change"
    replace_keys(plane)
    assert plane.airflow.call("GET", "/variables/own")["value"] == password
    assert _decrypted(plane, _fernet_keys(plane)) == [password, password]
    plane.airflow.pause("ingest_trades")
    plane.stop_airflow()


def _deferred(plane: ControlPlane) -> int:
    path = "/dags/~/dagRuns/~/taskInstances?state=deferred&limit=1"
    return int(plane.airflow.call("GET", path)["total_entries"])


def _store_trigger(plane: ControlPlane, key: str) -> None:
    """One whose arguments are encrypted, as Airflow stores those that no task has deferred to."""
    hidden = Fernet(key.encode()).encrypt(b"{}").decode()
    with psycopg.connect(plane.postgres.dsn(AIRFLOW_DATABASE)) as connection:
        connection.execute(
            "INSERT INTO trigger (classpath, kwargs, created_date) VALUES ('hidden', %s, now())", (hidden,)
        )


def _triggers(plane: ControlPlane) -> dict[bool, list[str]]:
    """The arguments of all triggers, as stored; by whether they are in clear."""
    with psycopg.connect(plane.postgres.dsn(AIRFLOW_DATABASE)) as connection:
        rows = [row[0] for row in connection.execute("SELECT kwargs FROM trigger ORDER BY id").fetchall()]
    return {clear: [text for text in rows if text.startswith("{") is clear] for clear in (True, False)}


def _reads_dags(plane: ControlPlane, secret: str) -> bool:
    """Whether Airflow lets in who signs a token of today with this secret."""
    headers = {"Authorization": f"Bearer {sign_token(secret, 'ana (command line)', 'admin')}"}
    return _status(plane, "GET", "/api/v2/dags", headers=headers)[0] == 200


def _die(_: ControlPlane) -> None:
    raise KeyboardInterrupt


def _fernet_keys(plane: ControlPlane) -> list[str]:
    """The keys that the running Airflow was given."""
    return read_environment(plane.environment_file)["AIRFLOW__CORE__FERNET_KEY"].split(",")


def _decrypted(plane: ControlPlane, keys: list[str]) -> list[str]:
    """What Airflow has stored encrypted, read with these keys by nobody's code but the library's."""
    fernet = MultiFernet([Fernet(key.encode()) for key in keys])
    with psycopg.connect(plane.postgres.dsn(AIRFLOW_DATABASE)) as connection:
        rows = connection.execute(
            "SELECT password FROM connection WHERE conn_id = 'own' UNION ALL SELECT val FROM variable WHERE key = 'own'"
        ).fetchall()
    return [fernet.decrypt(row[0].encode()).decode() for row in rows]


def _no_secret_is_an_argument(plane: ControlPlane) -> None:
    secrets = [path.read_text() for path in plane.settings.secrets.iterdir() if path.is_file()]
    assert len(secrets) >= 4
    for pid in owned_pids(plane.settings.control):
        arguments = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in arguments for secret in secrets), arguments


@pytest.mark.parametrize("supervisor_dies", [False, True])
def test_down_leaves_no_process_and_no_file(supervisor_dies: bool) -> None:
    with open_directory() as directory:
        plane = ControlPlane(installation(directory, "127.36"))
        plane.start_storage()
        postgres, supervisor = _pid(plane, "postgres"), plane.supervisor.pid()
        assert supervisor is not None
        if supervisor_dies:
            os.kill(supervisor, signal.SIGKILL)
        remove_installation(plane.settings, Console(file=io.StringIO()))
        assert not plane.settings.state.exists()
        assert not owned_pids(plane.settings.control)
        assert not _lives(postgres)

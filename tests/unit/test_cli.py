from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from kintsugi import cli
from kintsugi.core.fleet import REPOSITORY
from kintsugi.db.patience import NONE, be_patient
from kintsugi.installation.former_commands import MOVED, RENAMED
from tests.installations import installation

HEAVY = (
    "airflow",
    "ansible_runner",
    "boto3",
    "cassandra",
    "kafka",
    "pandas",
    "psycopg",
    "pyarrow",
    "pyspark",
)


@pytest.fixture(autouse=True)
def _no_patience_for_other_tests() -> Iterator[None]:
    """A command sets for its whole process how long it waits for the store; the next test would wait as long."""
    yield
    be_patient(NONE)


@pytest.fixture(autouse=True)
def _own_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = installation(tmp_path, "127.34")
    monkeypatch.setenv("KINTSUGI_STATE", str(settings.state))
    monkeypatch.setenv("KINTSUGI_FLEET", str(settings.fleet_file))


def test_deliberate_error_is_a_line_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KINTSUGI_FLEET", str(tmp_path / "nowhere.yaml"))
    assert cli.main(["status"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("kintsugi: ")
    assert str(tmp_path / "nowhere.yaml") in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bogus"],
        ["incident"],
        ["generate", "--seed", "x", "/tmp"],
        ["generate", "--seed", "-1", "/tmp"],
        ["generate", "--trades", "0", "/tmp"],
        ["validate"],
        ["release", "fly"],
    ],
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2


def test_a_release_command_says_how_many_digests_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release", "show"]) == 1
    assert {"1", "0"} <= set(re.findall(r"\d+", capsys.readouterr().err))


def test_status_is_json_when_the_environment_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMAT", "json")
    assert cli.main(["status"]) == 0
    assert json.loads(capsys.readouterr().out)["well"] is False


def test_generate_writes_the_same_day_for_the_same_seed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    days = []
    for name in ("one", "two"):
        assert cli.main(["generate", str(tmp_path / name), "--trades", "200", "--seed", "7"]) == 0
        days.append([Path(line).read_bytes() for line in capsys.readouterr().out.splitlines()])
    assert days[0] == days[1]
    assert len(days[0]) >= 3


@pytest.mark.parametrize(
    "words",
    [["--day", "9999-12-31"], ["--day", "2024-10-06"], ["--level", "absurd"], ["--trades", "9", "{file}"]],
)
def test_a_day_that_can_t_be_made_is_a_line_on_stderr(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / ("file" if words[-1] == "{file}" else "days")
    assert cli.main(["generate", str(directory), *(word for word in words if word != "{file}")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


CASES = REPOSITORY / "tests" / "data" / "cases"
TRADES = "UnderlyingOptionsTradesCalcs_2024-10-08_"


def test_validate_says_what_an_ingest_would_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    unreadable = tmp_path / "UnderlyingOptionsEODCalcs_2024-10-07.csv"
    unreadable.mkdir()
    files = [CASES / f"{TRADES}date_9999.csv", CASES / f"{TRADES}seven_bytes_lost.csv.zip", unreadable,
             CASES / "UnderlyingOptionsEODCalcs_2024-10-07_odd_rows.csv", tmp_path / "nowhere", Path("/dev/zero"),
             Path(sys.executable)]  # fmt: skip
    assert cli.main(["validate", "--json", *map(str, files)]) == 1
    reports = json.loads(capsys.readouterr().out)
    assert [report["file"] for report in reports] == [str(file) for file in files]
    assert all(set(r) == {"file", "kind", "read", "accepted", "rejected", "error"} for r in reports)
    assert [(r["kind"], r["read"], r["accepted"], r["rejected"]) for r in reports] == [
        ("trades", 10, 9, {"time": 1}), ("trades", 0, 0, {}), ("eod", 0, 0, {}),
        ("eod", 12, 9, {"number": 1, "range": 1, "columns": 1}), (None, 0, 0, {}), (None, 0, 0, {}), (None, 0, 0, {}),
    ]  # fmt: skip
    assert [report["error"] is None for report in reports] == [True, False, False, True, False, False, False]


def test_validate_of_good_files_is_status_0_and_names_what_was_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [CASES / f"{TRADES}macos.csv.zip", CASES / "UnderlyingOptionsEODCalcs_2024-10-07.zip"]
    assert cli.main(["validate", *map(str, files)]) == 0
    assert ".DS_Store" in capsys.readouterr().out


def test_validate_reads_an_object_and_says_when_it_can_t(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="k.zip", Body=(CASES / f"{TRADES}macos.csv.zip").read_bytes())
        monkeypatch.setattr("kintsugi.core.connections.s3_client", lambda settings, purpose: s3)
        assert cli.main(["validate", "--json", "s3://bucket/k.zip"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["accepted"] == 20
        assert cli.main(["validate", "--json", "s3://bucket/nothing", "s3://bucket", "s3://another/k"]) == 1
        assert all(report["error"] for report in json.loads(capsys.readouterr().out))


def test_validate_needs_no_installation_and_loads_nothing_heavy() -> None:
    file = CASES / f"{TRADES}macos.csv.zip"
    script = (
        f"import sys, kintsugi.cli; assert kintsugi.cli.main(['validate', {str(file)!r}]) == 0; "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_start_loads_nothing_heavy() -> None:
    script = f"import sys, kintsugi.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["demo"], "demo"),
        (["walk"], "crash-test"),
        (["chaos_campaign"], "chaos-campaign"),
        (["release", "trials"], "release-trials"),
    ],
)
def test_an_old_command_of_the_benchmarks_says_its_new_name_and_runs(words: list[str], command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kintsugi.cli", *words, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("\n") == 1
    assert f"`python -m benchmarks {command}`" in done.stderr
    assert done.stdout.startswith(f"usage: python -m benchmarks {command} ")


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_command_says_its_new_name_and_runs(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([old, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert f"`kintsugi {RENAMED[old]}`" in said.err
    assert said.out.startswith(f"usage: kintsugi {RENAMED[old]} ")


@pytest.mark.parametrize(
    ("words", "what", "reason"),
    [
        (["stop", "--reason", "a deploy"], "stop", "a deploy"),
        (["--reason", "a deploy", "stop"], "stop", "a deploy"),
        (["resume"], "resume", ""),
        (["status"], "status", ""),
    ],
)
def test_chaos_runs_under_its_old_name_too(
    words: list[str],
    what: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[str, str]] = []

    def run(what: str, reason: str) -> int:
        ran.append((what, reason))
        return 0

    monkeypatch.setattr("kintsugi.chaos.command.main", run)
    assert cli.main(["chaos", *words]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"`kintsugi chaos-{what}`" in said
    assert cli.main([f"chaos-{what}", *(["--reason", reason] if reason else [])]) == 0
    assert capsys.readouterr().err == ""
    assert ran == [(what, reason)] * 2


def test_help_lists_current_names_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = re.findall(r"^    (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert {"up", "chaos-stop", "recreate-cluster"} <= set(listed)
    assert not {"chaos", *RENAMED, *MOVED}.intersection(listed)

"""Actions: what they say and what they ask of Airflow."""

from __future__ import annotations

import pytest

from kintsugi.core.errors import FleetError, InputError
from kintsugi.core.fleet import load_fleet
from kintsugi.web import actions
from kintsugi.web.airflow_api import read_reply

FLEET = load_fleet()


def test_a_recovery_is_a_dry_run_unless_the_form_says_otherwise() -> None:
    form = {field.name: field.value for field in actions.describe_action("recover", "kafka-1", FLEET).fields}
    wanted = actions.build_request("recover", "kafka-1", form, FLEET)
    assert (wanted.method, wanted.path) == ("POST", "/dags/recover_node/dagRuns")
    assert wanted.body["conf"] == {"node": "kafka-1", "action": "auto", "dry_run": True}
    real = actions.build_request("recover", "kafka-1", {**form, "dry_run": "no"}, FLEET)
    assert real.body["conf"]["dry_run"] is False


@pytest.mark.parametrize(
    ("name", "target", "form", "error"),
    [
        ("recover", "kafka-9", {"dry_run": "yes", "action": "auto"}, FleetError),
        ("recover", "kafka-1", {"dry_run": "maybe", "action": "auto"}, InputError),
        ("recover", "kafka-1", {"action": "auto"}, InputError),
        ("pause", "*", {"minutes": "30", "reason": "  "}, InputError),
        ("pause", "nowhere-1", {"minutes": "30", "reason": "x"}, FleetError),
        ("approve", "no such thing", {}, InputError),
        ("drop_all", "", {}, InputError),
    ],
)
def test_what_is_not_offered_is_refused(
    name: str, target: str, form: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        actions.build_request(name, target, form, FLEET)


def test_an_approval_survives_colons_in_the_run_and_is_quoted() -> None:
    target = "watch_kafka-2:scheduled__2026-11-22T02:00:00+00:00:recovery.ask_a_human:-1"
    wanted = actions.build_request("approve", target, {}, FLEET)
    run = "scheduled__2026-11-22T02%3A00%3A00%2B00%3A00"
    assert wanted.path == (
        f"/dags/watch_kafka-2/dagRuns/{run}/taskInstances/recovery.ask_a_human/-1/hitlDetails"
    )
    assert wanted.body["chosen_options"] == ["Approve"]


@pytest.mark.parametrize(
    "target",
    [
        "..:..:..:-1",
        "watch_kafka-2:..:t:-1",
        "watch_kafka-2:r:.:-1",
        "watch_kafka-2/../..:r:t:-1",
        "watch_kafka-2:r/../x:t:-1",
        "watch_kafka-2:r%2f..:t:-1",
        "watch_kafka-2:r:t?x=1:-1",
        "watch_kafka-2:r:t\n:-1",
        "watch_kafka-2:r:t:--1",
        "watch_kafka-2:r:t:²",
        "watch_kafka-2:r:t:1\n",
    ],
)
def test_an_approval_never_leaves_its_place_in_the_api(target: str) -> None:
    with pytest.raises(InputError):
        actions.build_request("approve", target, {}, FLEET)


def test_every_action_says_what_it_will_do() -> None:
    targets = {"approve": "watch_kafka-2:r:t:-1", "decline": "watch_kafka-2:r:t:-1"}
    for name in (
        "recover",
        "pause",
        "resume",
        "watch",
        "redrive",
        "chaos",
        "chaos_on",
        "chaos_off",
        "approve",
        "decline",
    ):
        wanted = actions.describe_action(name, targets.get(name, "kafka-1"), FLEET)
        assert wanted.says, name
        assert all(sentence.endswith(".") for sentence in wanted.says), name
        form = {field.name: field.value or "why" for field in wanted.fields}
        assert actions.build_request(name, wanted.target, form, FLEET).dag_id


def test_one_file_or_every_failed_one_is_taken_again_in_the_persons_name() -> None:
    wanted = actions.build_request("redrive", "trades/2024-10-08/f.csv", {}, FLEET)
    assert (wanted.method, wanted.path, wanted.right) == ("POST", "/dags/redrive_files/dagRuns", "run")
    assert wanted.body["conf"] == {"keys": ["trades/2024-10-08/f.csv"]}
    assert actions.build_request("redrive", "", {}, FLEET).body["conf"] == {"keys": []}


def test_airflows_refusal_reaches_the_person_in_its_words() -> None:
    assert read_reply(200, {"dag_run_id": "manual__1"}).run_id == "manual__1"
    refused = read_reply(404, {"detail": "Dag not found"})
    assert (refused.done, refused.said) == (False, "Dag not found")

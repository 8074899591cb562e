"""The actions of the page. Each action is one request to Airflow's REST API. Pure.

The page shows `PageAction.says` and asks for confirmation. Then it sends the `request` to Airflow in the name of
the signed-in user. Airflow checks the permission, validates the parameters and writes its audit log. For a run it
records the name as ``triggering_user``. The page itself changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from kintsugi.core.errors import InputError
from kintsugi.core.fleet import WATCH, Fleet, watch_dag_id
from kintsugi.db.flags import FLEET
from kintsugi.recovery.guard_model import APPROVE, DECLINE

ACTIONS = {
    "auto": "Automatic: diagnose and choose; a ready node is left alone",
    "restart": "Restart the service; the disk stays",
    "rebuild": "Rebuild: a new node with an empty disk; it gets its data from its peers",
}
MINUTES = {"30": "30 minutes", "120": "2 hours", "480": "8 hours", "0": "until someone resumes it"}
_QUESTION = re.compile(r"([\w.-]+):([\w.:+~-]+):([\w.-]+):(-?[0-9]{1,6})\Z", re.ASCII)
_NOTE = "Started from Pipeline Health."


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the confirmation form. ``options``: value to label; without them it is a line of text."""

    name: str
    label: str
    value: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """A call of Airflow's REST API: ``body`` is JSON, ``path`` is quoted. ``dag_id``, ``right``: the permission."""

    method: str
    path: str
    body: Mapping[str, Any]
    dag_id: str
    right: str = "run"


@dataclass(frozen=True, slots=True)
class PageAction:
    """One action on one target. ``says``: what will happen, in sentences; ``grave``: it can do damage."""

    name: str
    target: str
    title: str
    says: tuple[str, ...]
    confirm: str
    fields: tuple[Field, ...] = ()
    grave: bool = False


def describe_action(name: str, target: str, fleet: Fleet) -> PageAction:
    """The action to be confirmed; raises InputError for an unknown action or target."""
    if name not in _ACTIONS:
        raise InputError(f"there is no action {name!r}; the actions are: {', '.join(_ACTIONS)}")
    _check_target(name, target, fleet)
    return _ACTIONS[name](target)


def build_request(name: str, target: str, values: Mapping[str, str], fleet: Fleet) -> Request:
    """The request to Airflow for the confirmed form; raises InputError that names the wrong value."""
    wanted = describe_action(name, target, fleet)
    for entry in wanted.fields:
        given = values.get(entry.name, "")
        if entry.options and given not in entry.options:
            raise InputError(f"{entry.label}: {given!r} is not one of {', '.join(entry.options)}")
        if not entry.options and not given.strip():
            raise InputError(f"{entry.label}: enter a reason; it is shown on this page and in every refusal")
    return _REQUESTS[name](target, values)


def parse_approval(target: str) -> tuple[str, str, str, int]:
    """DAG, run, task and map index of an open question, from ``dag:run:task:map_index``; raises InputError."""
    found = _QUESTION.match(target)
    if found is None:
        raise InputError(f"{target[:200]!r} does not name an open question (dag:run:task:map_index)")
    dag, run, task, index = found.groups()
    return dag, run, task, int(index)


def _check_target(name: str, target: str, fleet: Fleet) -> None:
    if name == "recover" or (name in ("watch", "pause", "resume") and target != FLEET):
        fleet.node(target)
    elif name in ("approve", "decline"):
        parse_approval(target)


def _describe_recovery(node: str) -> PageAction:
    return PageAction(
        "recover",
        node,
        f"Recover {node}",
        (
            "Runs the DAG recover_node. It probes the node and asks its peers. Then the guards decide.",
            "A dry run shows Terraform's plan and changes nothing.",
        ),
        "Start recovery",
        (
            Field(
                "dry_run",
                "Mode",
                "yes",
                {"yes": "Dry run: only show the plan", "no": "Real run: change the node"},
            ),
            Field("action", "Action", "auto", ACTIONS),
        ),
        grave=True,
    )


def _describe_pause(scope: str) -> PageAction:
    what = _name_scope(scope)
    return PageAction(
        "pause",
        scope,
        f"Pause recovery of {what}",
        (
            f"Starts a maintenance window for {what}. Failures are still detected, but the guards refuse every repair.",
            "This page shows the reason and your name to every user.",
        ),
        "Pause recovery",
        (Field("minutes", "For how long", "30", MINUTES), Field("reason", "Why", "")),
        grave=True,
    )


def _describe_resume(scope: str) -> PageAction:
    says = (
        f"Ends the maintenance window of {_name_scope(scope)}. Nodes that fail are recovered again at once."
    )
    return PageAction("resume", scope, f"Resume recovery of {_name_scope(scope)}", (says,), "Resume recovery")


def _describe_watch(node: str) -> PageAction:
    what = "every node" if node == FLEET else node
    says = f"Unpauses the watch of {what} in Airflow. A failure is detected within seconds and the node is recovered."
    return PageAction("watch", node, f"Resume the watch of {what}", (says,), "Resume watch")


def _describe_redrive(key: str) -> PageAction:
    what = key or "every failed file"
    says = (
        f"Runs the DAG redrive_files. The ingest reads {what} again from the first line.",
        "A trade keeps its identity, so a stored trade stays one row.",
        "A file that still can't be used fails again, with its reason.",
    )
    title = f"Ingest {key.rpartition('/')[2]} again" if key else "Ingest all failed files again"
    return PageAction("redrive", key, title, says, "Ingest again")


def _describe_chaos(_target: str) -> PageAction:
    return PageAction(
        "chaos",
        "",
        "Break a node now",
        (
            "Runs the DAG chaos_nightly. It kills a random node and waits until the node has recovered.",
            "The run is refused while an incident is open or a node does not answer.",
        ),
        "Break a node",
        (Field("lose_volume", "Its disk", "yes", {"yes": "Lost with the node", "no": "Kept"}),),
        grave=True,
    )


def _describe_nightly_chaos(on: bool) -> PageAction:
    name, verb = ("chaos_on", "Start") if on else ("chaos_off", "Stop")
    says = "Kills one random node every weekday at 02:00 New York time and checks that it recovers."
    ends = "No more nodes are killed at night. A recovery that is running continues."
    return PageAction(
        name, "", f"{verb} nightly chaos", (says if on else ends,), f"{verb} nightly chaos", grave=on
    )


def _describe_approval(target: str) -> PageAction:
    node = parse_approval(target)[0].removeprefix(WATCH)
    says = "Repairs the node although the guards refused. A node that still answers is not destroyed."
    return PageAction(
        "approve", target, f"Approve the repair ({node})", (says,), "Approve the repair", grave=True
    )


def _describe_decline(target: str) -> PageAction:
    node = parse_approval(target)[0].removeprefix(WATCH)
    says = "The repair ends as refused. The watch probes the node again."
    return PageAction("decline", target, f"Decline the repair ({node})", (says,), "Decline the repair")


def _quote_part(part: str) -> str:
    """One part of a path. A client takes ``..`` for the part above, whatever is quoted."""
    if part in ("", ".", ".."):
        raise InputError(f"{part!r} is not an id")
    return quote(part, safe="")


def _name_scope(scope: str) -> str:
    return "the whole fleet" if scope == FLEET else scope


def _trigger_request(dag_id: str, conf: Mapping[str, Any]) -> Request:
    body = {"logical_date": None, "conf": dict(conf), "note": _NOTE}
    return Request("POST", f"/dags/{_quote_part(dag_id)}/dagRuns", body, dag_id)


def _pause_request(dag_id: str, paused: bool) -> Request:
    path = f"/dags/{_quote_part(dag_id)}?update_mask=is_paused"
    return Request("PATCH", path, {"is_paused": paused}, dag_id, "dag")


def _watch_request(node: str) -> Request:
    if node != FLEET:
        return _pause_request(watch_dag_id(node), paused=False)
    path = "/dags?update_mask=is_paused&tags=watch&dag_id_pattern=" + WATCH
    return Request("PATCH", path, {"is_paused": False}, "watch_flow", "dag")


def _approval_request(target: str, option: str) -> Request:
    dag, run, task, index = parse_approval(target)
    where = f"/dags/{_quote_part(dag)}/dagRuns/{_quote_part(run)}/taskInstances/{_quote_part(task)}"
    body = {"chosen_options": [option], "params_input": {}}
    return Request("PATCH", f"{where}/{index}/hitlDetails", body, dag, "decision")


_ACTIONS: dict[str, Callable[[str], PageAction]] = {
    "recover": _describe_recovery,
    "pause": _describe_pause,
    "resume": _describe_resume,
    "watch": _describe_watch,
    "redrive": _describe_redrive,
    "chaos": _describe_chaos,
    "chaos_on": lambda _: _describe_nightly_chaos(on=True),
    "chaos_off": lambda _: _describe_nightly_chaos(on=False),
    "approve": _describe_approval,
    "decline": _describe_decline,
}
_REQUESTS: dict[str, Callable[[str, Mapping[str, str]], Request]] = {
    "recover": lambda node, form: _trigger_request(
        "recover_node", {"node": node, "action": form["action"], "dry_run": form["dry_run"] == "yes"}
    ),
    "pause": lambda scope, form: _trigger_request(
        "maintenance",
        {
            "scope": scope,
            "healing": "pause",
            "minutes": int(form["minutes"]),
            "reason": form["reason"].strip()[:200],
        },
    ),
    "resume": lambda scope, _form: _trigger_request("maintenance", {"scope": scope, "healing": "resume"}),
    "watch": lambda node, _form: _watch_request(node),
    "redrive": lambda key, _form: _trigger_request("redrive_files", {"keys": [key] if key else []}),
    "chaos": lambda _target, form: _trigger_request(
        "chaos_nightly", {"lose_volume": form["lose_volume"] == "yes"}
    ),
    "chaos_on": lambda _target, _form: _pause_request("chaos_nightly", paused=False),
    "chaos_off": lambda _target, _form: _pause_request("chaos_nightly", paused=True),
    "approve": lambda target, _form: _approval_request(target, APPROVE),
    "decline": lambda target, _form: _approval_request(target, DECLINE),
}

"""A client for Terraform: one root module; plans are saved, read, and applied exactly.

Every secret goes through the environment. Terraform ends with its caller: when the caller is killed, Terraform gets
SIGTERM, finishes the current resource, saves the state and releases the lock.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.core.connections import own_postgres_url
from kintsugi.core.errors import KintsugiError, PreflightError, StepFailed
from kintsugi.core.membership import present_nodes, read_membership

if TYPE_CHECKING:
    from kintsugi.core.fleet import Node
    from kintsugi.core.settings import Settings

_STALE = ("Saved plan is stale", "Saved plan does not match the given state")
_PLANS_KEPT = 20
_NODES = "nodes"  # the variable of the root module with the nodes that are there


class StalePlan(KintsugiError):
    """The state has changed since the plan was created: plan again, check again, then apply."""


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan on disk; ``document``: its ``terraform show -json``."""

    path: Path
    document: Mapping[str, Any]


class Terraform:
    """The root module of one environment, applied to one installation.

    ``pg_conn_str``: connection string of the Postgres with the state; by default ``$PG_CONN_STR``, else the control
    plane's own database. ``root``: the directory of the root module.
    """

    def __init__(
        self, settings: Settings, *, pg_conn_str: str | None = None, root: Path | None = None
    ) -> None:
        self.settings = settings
        self.root = root or settings.repository / "terraform" / settings.fleet.environment
        self.scratch = settings.control / "terraform"
        self._pg_conn_str = pg_conn_str

    def init(self) -> None:
        """Initialise the root module; raises StepFailed if the state's database does not answer."""
        self._run("init", timeout_s=120, input=False, reconfigure=True)

    def apply_all(self, *, timeout_s: float = 300) -> None:
        """Create the missing nodes of the fleet, and change what differs from the fleet file.

        With a record of members (`kintsugi.core.membership`), nodes that are to be added or removed are left alone.
        """
        self.init()
        self._run("apply", timeout_s=timeout_s, auto_approve=True, lock_timeout="60s", **_APPLY)

    def destroy_all(self, *, timeout_s: float = 300) -> None:
        """Destroy all nodes and volumes (their data goes to the quarantine)."""
        self.init()
        self._run("destroy", timeout_s=timeout_s, auto_approve=True, lock_timeout="60s", **_APPLY)
        # The next fleet forms clusters of its own (see formed_directory in the inventory).
        shutil.rmtree(self.settings.control / "formed", ignore_errors=True)

    def outputs(self) -> dict[str, Any]:
        """Return the outputs by name; ``nodes`` maps each node to its role, address, ssh_port, root and volume."""
        document = json.loads(self._run("output", timeout_s=60, json=True))
        return {name: entry["value"] for name, entry in document.items()}

    def known(self) -> set[str]:
        """Return the ids of all resources in the state."""
        self._ensure_ready()
        state = json.loads(self._run("state pull", timeout_s=60) or "{}")
        attributes_of_all = (
            instance["attributes"] for part in state.get("resources", ()) for instance in part["instances"]
        )
        return {attributes["id"] for attributes in attributes_of_all if attributes.get("id")}

    def plan(
        self,
        *,
        replace: Sequence[str] = (),
        targets: Sequence[str] = (),
        without: Collection[str] = (),
        lock_timeout_s: int = 60,
    ) -> SavedPlan:
        """Plan the replacement of the addresses ``replace``, with nothing but ``targets`` in the plan.

        ``without``: the names of nodes that are to be destroyed. Terraform destroys a node that is no longer listed
        together with any target of its module, so every other plan lists it as long as it is there.

        Raises StepFailed, also if the lock on the state isn't free within ``lock_timeout_s``.
        """
        self._ensure_ready()
        path = self._new_plan_path()
        options: dict[str, Any] = {"lock_timeout": f"{lock_timeout_s}s", "input": False}
        self._run(
            "plan",
            timeout_s=lock_timeout_s + 60,
            out=str(path),
            replace=list(replace),
            target=list(targets),
            environment=self._environment(without),
            **options,
        )
        return self.load(path)

    def load(self, path: Path) -> SavedPlan:
        """Read a plan that this or another process saved; raises StepFailed if it is gone."""
        return SavedPlan(path, json.loads(self._run("show", str(path), timeout_s=60, json=True)))

    def apply(self, saved: SavedPlan, *, timeout_s: float = 120, lock_timeout_s: int = 60) -> None:
        """Apply exactly this plan. Raises StalePlan if the state has changed since it was created."""
        options: dict[str, Any] = {"lock_timeout": f"{lock_timeout_s}s"}
        environment = self._environment()
        nodes = saved.document.get("variables", {}).get(_NODES, {}).get("value")
        if nodes is not None:  # the variables must be those of the plan
            environment[f"TF_VAR_{_NODES}"] = nodes
        self._run(
            "apply",
            str(saved.path),
            timeout_s=timeout_s + lock_timeout_s,
            environment=environment,
            **options,
            **_APPLY,
        )

    def replace(self, addresses: Sequence[str], *, timeout_s: float = 120) -> None:
        """Plan and apply the replacement of ``addresses`` at once; nothing checks the plan in between.

        For a person's command only: a recovery checks its plan, see `plan`. Raises StepFailed.
        """
        self._run(
            "apply",
            timeout_s=timeout_s + 60,
            auto_approve=True,
            replace=list(addresses),
            target=list(addresses),
            lock_timeout="60s",
            **_APPLY,
        )

    def _ensure_ready(self) -> None:
        if not (self.scratch / "data" / "terraform.tfstate").exists():
            self.init()

    def _new_plan_path(self) -> Path:
        directory = self.scratch / "plans"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        plans = sorted(directory.glob("*.tfplan"), key=lambda path: path.stat().st_mtime)
        for old in plans[: -_PLANS_KEPT + 1]:
            old.unlink(missing_ok=True)
        return directory / f"{uuid.uuid4().hex}.tfplan"

    def _environment(self, without: Collection[str] = ()) -> dict[str, str]:
        settings = self.settings
        environment = dict(os.environ)
        if not _is_readable_file(environment.get("TF_CLI_CONFIG_FILE", "")):
            environment.pop("TF_CLI_CONFIG_FILE", None)
        environment |= {
            "TF_DATA_DIR": str(self.scratch / "data"),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "TF_VAR_fleet_file": str(settings.fleet_file),
            "TF_VAR_state_dir": str(settings.state),
            "TF_VAR_cache_dir": str(settings.cache),
            "TF_VAR_python": sys.executable,
        }
        if (present := present_nodes(settings.declared_fleet, read_membership(settings.control))) is not None:
            environment[f"TF_VAR_{_NODES}"] = json.dumps(
                [_node_variables(node) for name, node in present.items() if name not in without]
            )
        if settings.fleet.environment == "docker":
            from kintsugi.infra.docker_engine import image_in_force  # docker

            environment["TF_VAR_image"] = image_in_force(settings)
        environment["PG_CONN_STR"] = self._pg_conn_str or environment.get("PG_CONN_STR") or self._local_dsn()
        return environment

    def _local_dsn(self) -> str:
        return f"{own_postgres_url(self.settings)}&sslmode=disable"

    def _run(
        self,
        command: str,
        *arguments: str,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> str:
        from python_terraform import IsFlagged
        from python_terraform import Terraform as Commands

        binary = shutil.which("terraform", path=_search_path())
        if binary is None:
            raise PreflightError("terraform is not installed; run `make setup`")
        flags = {key: IsFlagged if value is True else value for key, value in options.items()}
        builder = Commands(working_dir=str(self.root), terraform_bin_path=binary)
        argv = builder.generate_cmd_string(command, *arguments, no_color=IsFlagged, **flags)
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        code, out, err = _run_supervised(argv, self.root, environment or self._environment(), timeout_s)
        if code == 0:
            return out
        reason = _error_text(err or out)
        if any(text in err for text in _STALE):
            raise StalePlan(f"terraform {command}: {reason}; plan again")
        raise StepFailed(f"terraform {command} in {self.root} failed: {reason}")


def _node_variables(node: Node) -> dict[str, object]:
    """Return a node as an entry of the fleet file's list, as far as Terraform reads it."""
    variables: dict[str, object] = {
        "name": node.name,
        "role": node.role.value,
        "address": node.address,
        "ssh_port": node.ssh_port,
        "zone": node.zone,
    }
    return variables | ({"host": node.host} if node.host else {})


# Options of every apply and destroy. Nodes don't wait for each other, so all are created at the same time.
_APPLY: dict[str, Any] = {"input": False, "parallelism": 9}


def _is_readable_file(path: str) -> bool:
    """Whether Terraform can read its configuration there; else it ends with an error, or warns at each call."""
    try:
        with Path(path).open("rb"):
            return True
    except (OSError, ValueError):
        return False


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.prefix) / 'bin'}"


def _run_supervised(
    argv: Sequence[str], directory: Path, environment: Mapping[str, str], timeout_s: float
) -> tuple[int, str, str]:
    """Run to the end; after ``timeout_s`` ask it to stop, which it does after the current resource."""
    setpriv = shutil.which("setpriv")
    prefix = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
    process = subprocess.Popen(
        [*prefix, *argv],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        process.terminate()
    try:
        out, err = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return 124, out, f"{err}\nError: no end after {timeout_s:.0f} s"


def _error_text(text: str) -> str:
    """Return the error in Terraform's output, as one line of at most 600 characters."""
    lines = [line.strip("│╷╵ \t") for line in text.splitlines()]
    lines = [line for line in lines if line]
    first = next((number for number, line in enumerate(lines) if line.startswith("Error:")), 0)
    return " ".join(lines[first : first + 12])[:600] or "it gave no output"

"""Commands to the init of a node: start, stop and status of one of its programs."""

from __future__ import annotations

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node
from kintsugi.infra import ssh
from kintsugi.operations.context import Context


def control_program(context: Context, node: Node, verb: str, program: str, timeout_s: float) -> str:
    """Give the command ``verb`` (start, stop, status) for ``program`` to the init of ``node``; returns the answer.

    To start what runs is no error. Raises StepFailed.
    """
    config = context.settings.node_root(node.name) / "etc" / "supervisord.conf"
    argv = ["supervisorctl", "-c", str(config), verb, program]
    answer = ssh.run_over_ssh(context.settings, node, argv, timeout_s)
    text = f"{answer.stdout}{answer.stderr}".strip()
    if answer.returncode != 0 and verb != "status" and "already started" not in text:
        raise StepFailed(
            f"{node.name}: '{verb} {program}' answered {text!r}; read {program}.log of that node"
        )
    return text

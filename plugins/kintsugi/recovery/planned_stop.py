"""Judge whether a service may be stopped on purpose although its node may serve: for a roll-out and its way back."""

from __future__ import annotations

import asyncio

from kintsugi.core.fleet import Node
from kintsugi.core.observation import ProbeResult
from kintsugi.operations.context import Context
from kintsugi.recovery.fact_gathering import is_running
from kintsugi.recovery.guard_facts import guard_facts
from kintsugi.recovery.guard_model import GuardFacts
from kintsugi.recovery.guard_rules import replica_violations


def stop_reasons(context: Context, node: Node) -> list[str]:
    """Return every reason against a stop of the node's service now, one sentence each; empty if it may be stopped.

    Asks the node and its peers anew, which takes at most about 9 s. Never raises on network errors.
    """
    running = is_running(context.platform(), node.name)
    return judge_stop(
        asyncio.run(guard_facts(context.fleet, node, running=running, settings=context.settings))
    )


def judge_stop(facts: GuardFacts) -> list[str]:
    """Return every reason against the stop, by the facts. Pure.

    A node that answers neither us nor itself serves nobody, so a stop takes nothing away. One that answers is stopped
    only if its peers can do without it: quorum, copies and replicas. A fact that is unknown is a reason.
    """
    if ProbeResult.OK not in (facts.service, facts.view.answer):
        return []
    return [violation.reason for violation in replica_violations(facts, "stop a node that serves")]

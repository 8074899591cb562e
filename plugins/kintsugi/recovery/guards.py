"""The guards: pure rules that allow or refuse an action. A refusal is a list of sentences, one for each reason.

Which guards an action has to pass depends on how much it can destroy:

| guard                                                     | restart, roll back | rebuild node | both |
|-----------------------------------------------------------|:---:|:---:|:---:|
| no maintenance flag on the node or the fleet              |  x  |  x  |  x  |
| repair budget: per node and for the fleet, in one hour    |  x  |  x  |  x  |
| the peers can do without a node that still serves         |  x  | (s) | (s) |
| the node is not protected                                 |     |  x  |  x  |
| kill of a live node: nobody got an answer in the last 5 s | (k) |  x  |  x  |
| no common cause is likely (`common_cause`)                | (k) | (k) | (k) |
| one node of a role at a time                              | (k) | (k) | (k) |
| breaker: at most half of the fleet is down                | (k) | (k) |  x  |
| last copy and quorum; replication of at least 2           |     |     |  x  |
| no data repair of another node of this role is pending    |     |     | (x) |

(k) Evaluated only if the action can kill something that still runs. Nothing can be killed if the platform says that
the node does not run. A restart also kills nothing if the node says that its service does not run. So a whole
fleet can be started again after a power cut.
(s) Evaluated if the node answers no client, but its peers hear it: it may be a voter or a replica in sync for them.
(x) A pending data repair does not matter if the volume is known to be gone: there is nothing left to destroy.
Kafka's copies are checked even then. If a replica comes back empty and is the only one in sync, the other
replicas truncate their data.

A node that anybody heard within 5 s is never killed, unless its platform says that it does not run. A role without
peers has nobody else who could have heard the node, so its silence must last 30 s.

An action that destroys is refused if a fact is unknown. A restart is refused only by facts that are known.
A replacement on purpose (`kintsugi.replacement`) is judged by the column *both*, also if it keeps the volume.

The lease is not checked here. The database checks it in the transaction of each action.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kintsugi.core.incident import Action
from kintsugi.core.observation import ProbeResult
from kintsugi.recovery import guard_rules as rules
from kintsugi.recovery.guard_model import DEFAULT_LIMITS, Guard, GuardFacts, GuardResult, Limits, Violation


def evaluate_action(
    action: Action, facts: GuardFacts, limits: Limits = DEFAULT_LIMITS, *, approved: Collection[Guard] = ()
) -> GuardResult:
    """Evaluate every guard that the action has to pass. A refusal gives all reasons, not only the first.

    ``approved``: the guards that a person was asked about and overrode. The guard against the kill of a live node
    can't be overridden. To destroy a node that still answers, a person has to stop it first.
    """
    if action is Action.AUTO:
        return GuardResult(False, ("Refused: 'auto' is a request, not an action. Choose an action first.",))
    if not action.changes:
        return GuardResult(True)
    overridden = set(approved) - {Guard.WRONG_KILL}
    by_guard = {
        guard: list(violations)
        for guard, violations in _guards_of(action, facts, limits)
        if guard not in overridden
    }
    violations = [violation for each in by_guard.values() for violation in each]
    times = [violation.retry_at for violation in violations if violation.retry_at]
    return GuardResult(
        allowed=not violations,
        reasons=tuple(violation.reason for violation in violations),
        gates=frozenset(guard for guard, each in by_guard.items() if each),
        passing=bool(violations) and all(violation.passing for violation in violations),
        retry_at=max(times, default=None),
    )


def _guards_of(
    action: Action, facts: GuardFacts, limits: Limits
) -> Iterator[tuple[Guard, Iterator[Violation]]]:
    """Yield the guards that the action has to pass, each with its violations."""
    yield Guard.STORE, rules.database_violations(facts, strict=action.destroys)
    yield Guard.MAINTENANCE, rules.maintenance_violations(facts)
    yield Guard.BUDGET, rules.budget_violations(facts, limits)
    kills = not (facts.proven_dead or (facts.process_ended and not action.destroys))
    if action.destroys:
        yield Guard.PROTECTED, rules.protection_violations(facts)
    serves = (facts.planned and facts.service is ProbeResult.OK) or facts.view.misplaced
    if not action.destroys_volume and ((serves and not action.destroys) or _may_serve_peers(facts, limits)):
        yield Guard.COPIES, rules.replica_violations(facts, "stop a node that serves")
    if action.destroys_volume:
        what = "start it on an empty disk" if facts.volume_intact is False else "destroy the volume"
        yield Guard.COPIES, rules.replica_violations(facts, what)
        yield Guard.PENDING, rules.pending_repair_violations(facts)
    if kills or action.destroys_volume:
        yield Guard.BREAKER, rules.breaker_violations(facts, limits, strict=action.destroys)
    if kills:
        yield Guard.COMMON_CAUSE, rules.common_cause_violations(facts)
        yield Guard.ONE_OF_ROLE, rules.same_role_violations(facts, limits)
    if action.destroys or (kills and not facts.planned):
        yield Guard.WRONG_KILL, rules.live_kill_violations(facts, limits)


def _may_serve_peers(facts: GuardFacts, limits: Limits) -> bool:
    """Whether a node that answers no client may still be a voter or a replica for the peers that hear it."""
    return facts.stuck and not facts.proven_dead and facts.heard_within(limits.silence) is not False

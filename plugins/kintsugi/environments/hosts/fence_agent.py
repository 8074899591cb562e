"""The fence agent: a command of yours that switches a host off and on, and tells which it is.

A host that is silent can't be asked over SSH to end its node. It may be alive behind a broken network and still write.
So nothing of it is replaced before the agent has confirmed that it is off. The agent is called without a shell as
``<fence_agent…> <host> <action>``. It must

* for ``status`` print ``on`` or ``off``, and nothing else;
* for ``off`` switch the host off at once, as pulling the plug does, and for ``on`` switch it on;
* end with 0, within 60 seconds, if that was done. Both may be repeated.
"""

from __future__ import annotations

import os
import subprocess
from enum import StrEnum

from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Fleet, Host
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import allowed_variables

TIMEOUT_S = 60.0  # of one call
CONFIRMED_WITHIN_S = 60.0  # after its call with `off`
_PAUSE_S = 0.5
_PASSED_ON = ("HOME", "LANG", "PATH", "TZ")


class Power(StrEnum):
    """What the agent says of a host."""

    ON = "on"
    OFF = "off"


def read_power(fleet: Fleet, host: Host) -> Power:
    """Return whether the host is on. Raises StepFailed if there is no agent, or if it can't tell."""
    status = _call(fleet, host, "status").strip()
    try:
        return Power(status)
    except ValueError:
        raise StepFailed(
            f"the fence agent said {status[:100]!r} for the status of {host.name}, not on or off"
        ) from None


def fence_host(fleet: Fleet, host: Host) -> None:
    """Switch the host off; returns when the agent has confirmed that it is off.

    Raises GuardRefused if there is no agent, or if it fails or doesn't confirm: the host may then still run.
    """
    if not fleet.fence_agent:
        raise GuardRefused(
            f"{host.name} is silent, so it can't be fenced over SSH, and the fleet file has no fence_agent. Nothing "
            "was replaced, because it may still run. Switch it off or repair it by hand, or set fence_agent "
            "(docs/hosts.md)"
        )
    try:
        _call(fleet, host, "off")
        if not wait_until(lambda: read_power(fleet, host) is Power.OFF, CONFIRMED_WITHIN_S, pause=_PAUSE_S):
            raise StepFailed(f"{CONFIRMED_WITHIN_S:.0f} s later it still says that the host is on")
    except StepFailed as failure:
        raise GuardRefused(
            f"{host.name} may still run, so nothing was replaced: the fence agent did not confirm that it is off "
            f"({failure}). Switch the host off by hand, then run recover_node again"
        ) from failure


def switch_on(fleet: Fleet, host: Host) -> None:
    """Switch the host on. Raises StepFailed."""
    _call(fleet, host, "on")


def _call(fleet: Fleet, host: Host, action: str) -> str:
    if not fleet.fence_agent:
        raise StepFailed(f"there is no fence_agent in the fleet file to ask about {host.name}")
    command = [*fleet.fence_agent, host.name, action]
    try:
        done = subprocess.run(
            command,
            env=allowed_variables(os.environ, _PASSED_ON),  # an agent gets no secret of ours
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepFailed(
            f"the fence agent {command[0]} can't do {action} for {host.name}: {error}"
        ) from error
    if done.returncode:
        reason = (done.stderr or done.stdout).strip()[-300:]
        raise StepFailed(
            f"the fence agent ended with status {done.returncode} at {action} for {host.name}: {reason}"
        )
    return done.stdout

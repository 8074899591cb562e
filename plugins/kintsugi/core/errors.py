"""The one exception tree: every error that Kintsugi raises on purpose.

A message says in one line what is wrong, where, and what to do next. The command line prints it without a stack
trace.
"""


class KintsugiError(Exception):
    """Base of all deliberate errors. Its text can be shown to a user as it is."""


class FleetError(KintsugiError):
    """The fleet file is missing, malformed or contradicts itself."""


class PreflightError(KintsugiError):
    """Something that the local environment needs is missing on the machine: a program, a port, disk space."""


class InputError(KintsugiError):
    """A file or row of market data can't be used. It is kept and reported; everything else continues."""


class NotAcknowledged(KintsugiError):
    """Kafka did not acknowledge messages; the sender sends them again."""


class ReconciliationError(KintsugiError):
    """A reconciliation of trades failed: some trades are lost, doubled or altered."""


class GuardRefused(KintsugiError):
    """A guard refused the action because it would be unsafe. The text is the reason, as a sentence."""


class NodeReturned(GuardRefused):
    """The node answers again, so it is not killed. This attempt has done nothing to it."""


class NewIncarnation(GuardRefused):
    """The node or service was started again since the guards were evaluated; they are evaluated again first."""


class LeaseHeld(GuardRefused):
    """Another run holds the lease on this node."""


class IncidentClosed(GuardRefused):
    """The incident that a step works on is closed, so the step must stop."""


class StaleTokenError(KintsugiError):
    """The caller's fencing token is no longer the newest: another process acts on this node now."""


class PlanRejected(GuardRefused):
    """A Terraform plan would change something other than the node in recovery."""


class StepFailed(KintsugiError):
    """A recovery step could not reach its goal; the incident escalates."""


class PermanentStepError(StepFailed):
    """The same step would fail again the same way, so the next escalation step is taken at once."""


class ControlPlaneError(PermanentStepError):
    """A step failed because of the control plane (its disk, its programs) and not because of the node."""

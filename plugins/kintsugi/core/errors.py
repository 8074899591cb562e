"""The one exception tree: every error that Kintsugi raises on purpose.

A message says what was wrong, where, and what to do next, in one line; the command line prints it
without a stack trace.
"""


class KintsugiError(Exception):
    """Base of all deliberate errors; its text is fit to be shown to a user as it is."""


class FleetError(KintsugiError):
    """The fleet file is missing, malformed or contradicts itself."""


class PreflightError(KintsugiError):
    """The machine lacks something that the local environment needs (a program, a port, disk)."""


class InputError(KintsugiError):
    """A file or row of market data can't be used; it is kept and reported, nothing else stops."""


class NotAcknowledged(KintsugiError):
    """Kafka did not acknowledge messages; whoever sent them sends them again."""


class ReconciliationError(KintsugiError):
    """An account of trades was taken and doesn't balance: some are lost, doubled or altered."""


class GuardRefused(KintsugiError):
    """A guard said no: the action would be unsafe. The text is the reason, as a sentence."""


class NodeReturned(GuardRefused):
    """The node answers again, so it is not killed; nothing was done to it in this attempt."""


class NewIncarnation(GuardRefused):
    """Another life of the node or service runs than the one that was judged; it is judged again first."""


class LeaseHeld(GuardRefused):
    """Another run holds the lease on this node."""


class IncidentClosed(GuardRefused):
    """The incident that a step works for is closed: the step must not act for it any more."""


class StaleTokenError(KintsugiError):
    """The caller's fencing token is no longer the newest: someone else acts on this node now."""


class PlanRejected(GuardRefused):
    """A Terraform plan would touch something other than the node under repair."""


class StepFailed(KintsugiError):
    """A recovery step could not reach its goal; the incident escalates."""


class PermanentStepError(StepFailed):
    """The same step again would fail the same way: the ladder's next rung comes at once."""


class ControlPlaneError(PermanentStepError):
    """A step failed because of the control plane (its disk, its programs): the node isn't to blame."""

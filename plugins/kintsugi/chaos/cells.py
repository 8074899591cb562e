"""The table of faults: which fault on which nodes, and what is expected of the recovery.

A cell is passed when its victims serve again with no incident left open, the verdicts and actions in their incidents
are among the expected, no other node was acted upon, and no trade is lost or doubled.
Pure data; `kintsugi.local.fault_table` runs it, and leaves out, with the reason, what a machine can't make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from kintsugi.fleet import Role
from kintsugi.incident import Action
from kintsugi.recovery.diagnose import Verdict

_V, _A = Verdict, Action
# An init that starts a killed service is often quicker than the second opinion.
BACK_BY_ITSELF = frozenset({_V.STARTING, _V.PROCESS_DOWN, _V.FALSE_ALARM})
DEAD = frozenset({_V.HOST_LOST})
REBUILT = frozenset({_A.REBUILD})
ON_ITS_DISK = frozenset({_A.REBUILD_NODE})


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment.

    ``verdicts``, ``actions``: what may stand in the incidents of the victims; ``must``: actions of which each victim's
    incident has at least one, unless empty. ``says``: words that the journal of each victim must have, unless empty.
    ``incident``: False when the fault must not be acted upon at all.
    ``asks``: most disks of the role are gone, so each repair must ask a person; who approves, and then replays from S3.
    ``again``: the same node is hit once more while it recovers. ``deadline_s``: so long the journals may stand still
    before all victims serve again.
    """

    fault: str
    nodes: tuple[str, ...]
    verdicts: frozenset[Verdict]
    actions: frozenset[Action] = frozenset()
    must: frozenset[Action] = frozenset()
    says: str = ""
    incident: bool = True
    asks: bool = False
    again: bool = False
    deadline_s: float = 240.0

    @property
    def name(self) -> str:
        """How the cell is called on the command line and in the report."""
        return f"{self.fault}{'_twice' if self.again else ''}:{'+'.join(self.nodes)}"


def _one(fault: str, names: Iterable[str], verdicts: frozenset[Verdict], **more: object) -> list[Cell]:
    return [Cell(fault, (name,), verdicts, **more) for name in names]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Told:
    """What an incident says: its node, the verdicts that its confirmations came to, its actions, its words."""

    node: str
    verdicts: Sequence[str]
    actions: Sequence[str]
    words: str = ""


EACH_ROLE = ("kafka-1", "cassandra-1", "spark-master-1", "spark-worker-1")
STATEFUL = ("kafka-2", "cassandra-2")
SPARK = ("spark-master-1", "spark-worker-2")
LADDER = frozenset({_A.RESTART, _A.REBUILD_NODE, _A.REBUILD})
FLEET = (
    "kafka-1", "kafka-2", "kafka-3", "cassandra-1", "cassandra-2", "cassandra-3",
    "spark-master-1", "spark-worker-1", "spark-worker-2",
)  # fmt: skip

CELLS: Sequence[Cell] = (
    *_one("process_killed", EACH_ROLE, BACK_BY_ITSELF, actions=frozenset({_A.RESTART})),
    Cell("driver_killed", ("spark-master-1",), BACK_BY_ITSELF, incident=False),
    *_one("sshd_killed", ("kafka-3", "cassandra-3", *SPARK), frozenset(), incident=False),
    *_one("paused", (*STATEFUL, *SPARK), frozenset({_V.FALSE_ALARM}), incident=False),
    *_one("slow", ("kafka-3", "cassandra-3", *SPARK), frozenset({_V.FALSE_ALARM}), incident=False),
    *_one("power_off", EACH_ROLE, DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    *_one("volume_lost", ("kafka-3", "cassandra-3", "spark-master-1", "spark-worker-2"), DEAD,
          actions=REBUILT, must=REBUILT),
    *_one("volume_lost_silent", (*STATEFUL, *SPARK), frozenset({_V.HOST_LOST, _V.PARTITIONED}),
          actions=REBUILT, must=REBUILT),
    *_one("data_lost", STATEFUL, frozenset({_V.DISK_LOST}), actions=REBUILT, must=REBUILT),
    # What a Spark node has on its disk it can do without: its init starts it on an empty one.
    *_one("data_lost", SPARK, frozenset({_V.DISK_LOST, *BACK_BY_ITSELF}), actions=LADDER),
    *_one("hung", ("kafka-1", "cassandra-1", "spark-master-1", "spark-worker-1"), frozenset({_V.HUNG, *BACK_BY_ITSELF}),
          actions=frozenset({_A.RESTART})),
    *_one("host_hung", (*STATEFUL, *SPARK), frozenset({_V.HOST_LOST, _V.PARTITIONED}),
          actions=ON_ITS_DISK, must=ON_ITS_DISK),
    *_one("wrong_config", (*STATEFUL, *SPARK), frozenset({_V.MISCONFIGURED, *BACK_BY_ITSELF}),
          actions=frozenset({_A.RESTART}), must=frozenset({_A.RESTART})),
    *_one("disk_full", STATEFUL, frozenset({_V.DISK_FULL, *BACK_BY_ITSELF}), actions=REBUILT, must=REBUILT),
    *_one("clock_wrong", STATEFUL, frozenset({_V.CLOCK_WRONG, *BACK_BY_ITSELF}), actions=frozenset({_A.RESTART}),
          must=frozenset({_A.RESTART}), deadline_s=300),
    Cell("corrupt_log", ("kafka-3",), frozenset({_V.MISCONFIGURED, *BACK_BY_ITSELF}), actions=LADDER),
    # It says so itself, once it has tried to start: a restart, or a new node on the same disk, would read the same.
    Cell("corrupt_log", ("cassandra-3",), frozenset({_V.DATA_DAMAGED, *BACK_BY_ITSELF}), actions=REBUILT,
         must=REBUILT, deadline_s=300),
    # It starts without what it couldn't read, and its ranges are compared with its replicas.
    Cell("corrupt_entry", ("cassandra-2",), BACK_BY_ITSELF, actions=frozenset({_A.RESTART}),
         says="was compared with its replicas"),
    *_one("tail_lost", STATEFUL, DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    Cell("storage_away", ("kafka-1",), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    Cell("process_killed", ("kafka-1", "kafka-2"), BACK_BY_ITSELF, actions=frozenset({_A.RESTART})),
    Cell("process_killed", ("cassandra-1", "cassandra-2"), BACK_BY_ITSELF, actions=frozenset({_A.RESTART})),
    Cell("power_off", ("kafka-1", "kafka-2"), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    Cell("power_off", ("cassandra-2", "cassandra-3"), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    Cell("volume_lost", ("cassandra-2", "cassandra-3"), DEAD, actions=REBUILT, must=REBUILT, asks=True,
         says="approved the repair"),
    Cell("volume_lost", ("kafka-2", "cassandra-1"), DEAD, actions=REBUILT, must=REBUILT),
    Cell("volume_lost", ("kafka-1",), DEAD, actions=REBUILT, must=REBUILT, again=True, deadline_s=300),
    Cell("power_off", FLEET, DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK, deadline_s=480),
)  # fmt: skip


_NO_LOG = "it starts from no log of its own"
_SERVES_FULL = "it serves with a full disk; a stream that stands still for it calls a person"
_NO_TIME = "nothing that it does or says depends on its clock"
_NO_DRIVER = "the driver runs on the master's node"
_ONE_REPAIR = "what a repair wants of S3 is the same for every role"
_OF_SPARK = (Role.SPARK_MASTER, Role.SPARK_WORKER)
# Why a fault has no cell for a role; the report has it as not run.
NOT_MADE: Mapping[tuple[str, Role], str] = {
    **dict.fromkeys(product(("corrupt_log", "corrupt_entry", "tail_lost"), _OF_SPARK), _NO_LOG),
    **dict.fromkeys(product(("disk_full",), _OF_SPARK), _SERVES_FULL),
    **dict.fromkeys(product(("clock_wrong",), _OF_SPARK), _NO_TIME),
    **dict.fromkeys(product(("storage_away",), (Role.CASSANDRA, *_OF_SPARK)), _ONE_REPAIR),
    **dict.fromkeys(product(("driver_killed",), (Role.KAFKA, Role.CASSANDRA, Role.SPARK_WORKER)), _NO_DRIVER),
    ("corrupt_entry", Role.KAFKA): "a broker treats every damage of its log alike: corrupt_log",
}


def judge(cell: Cell, incidents: Sequence[Told], healed: bool) -> str | None:
    """Why the cell isn't as designed, None when it is.

    ``incidents``: what each incident says that began since the fault.
    """
    if not healed:
        return (
            f"not healed; its journals stood still for {cell.deadline_s:.0f} s, or went on for far too long"
        )
    for told in incidents:
        if (why := _unexpected(cell, told.node, set(told.verdicts), set(told.actions))) is not None:
            return why
    for node in owed(cell, incidents):
        return f"{node} should have got {' or '.join(sorted(cell.must))}"
    for node in cell.nodes:
        if cell.says and not any(cell.says in told.words for told in incidents if told.node == node):
            return f"nothing in the journal of {node} says: {cell.says}"
    return None


def owed(cell: Cell, incidents: Sequence[Told]) -> list[str]:
    """The victims that still have to get an action that they must have; ``incidents`` as for ``judge``."""
    if not cell.must:
        return []
    had = {told.node for told in incidents if cell.must & set(told.actions)}
    return [node for node in cell.nodes if node not in had]


def _unexpected(cell: Cell, node: str, verdicts: set[str], actions: set[str]) -> str | None:
    """What was said of a node, or done to it, that the cell doesn't expect."""
    if actions and (node not in cell.nodes or not cell.incident):
        return f"{node} was acted upon ({', '.join(sorted(actions))}), though it should have been left alone"
    if node not in cell.nodes:
        return None
    if strange := verdicts - cell.verdicts - BACK_BY_ITSELF:
        return f"{node} was taken for {', '.join(sorted(strange))}"
    if strange := actions - cell.actions:
        return f"{node} got {', '.join(sorted(strange))}"
    return None

"""The fault matrix: every fault, the nodes that it is injected into, and its designed outcome. Pure data.

`benchmarks.fault_matrix_run` and `benchmarks.chaos_campaign` run it. They leave out what can't be injected on this
machine, and name the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from benchmarks.scenarios import (
    BACK_BY_ITSELF,
    DEAD,
    ON_ITS_DISK,
    REBUILT,
    ExpectedPages,
    Scenario,
    build_for_each,
)
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.recovery.diagnosis import FailureMode
from kintsugi.recovery.guard_model import Guard

_V, _A = FailureMode, Action

EACH_ROLE = ("kafka-1", "cassandra-1", "spark-master-1", "spark-worker-1")
STATEFUL = ("kafka-2", "cassandra-2")
SPARK = ("spark-master-1", "spark-worker-2")
ESCALATION = frozenset({_A.RESTART, _A.REBUILD_NODE, _A.REBUILD})
FLEET = (
    "kafka-1", "kafka-2", "kafka-3", "cassandra-1", "cassandra-2", "cassandra-3",
    "spark-master-1", "spark-worker-1", "spark-worker-2",
)  # fmt: skip

# More of a role fail at once than it can spare: that is what these scenarios are about.
BEYOND_SPARE = frozenset({Guard.COPIES, Guard.BREAKER})

SERVER_SCENARIOS: Sequence[Scenario] = (
    *build_for_each("process_killed", EACH_ROLE, BACK_BY_ITSELF, actions=frozenset({_A.RESTART})),
    Scenario("driver_killed", ("spark-master-1",), BACK_BY_ITSELF, incident=False),
    *build_for_each("sshd_killed", ("kafka-3", "cassandra-3", *SPARK), frozenset(), incident=False),
    *build_for_each("paused", (*STATEFUL, *SPARK), frozenset({_V.FALSE_ALARM}), incident=False),
    *build_for_each("slow", ("kafka-3", "cassandra-3", *SPARK), frozenset({_V.FALSE_ALARM}), incident=False),
    *build_for_each("power_off", EACH_ROLE, DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    *build_for_each("volume_lost", ("kafka-3", "cassandra-3", "spark-master-1", "spark-worker-2"), DEAD,
          actions=REBUILT, must=REBUILT),
    *build_for_each("volume_lost_silent", (*STATEFUL, *SPARK), frozenset({_V.HOST_LOST, _V.PARTITIONED}),
          actions=REBUILT, must=REBUILT),
    *build_for_each("data_lost", STATEFUL, frozenset({_V.DISK_LOST}), actions=REBUILT, must=REBUILT),
    # What a Spark node has on its disk it can do without: its init starts it on an empty one.
    *build_for_each("data_lost", SPARK, frozenset({_V.DISK_LOST, *BACK_BY_ITSELF}), actions=ESCALATION),
    *build_for_each("hung", EACH_ROLE, frozenset({_V.HUNG, *BACK_BY_ITSELF}),
          actions=frozenset({_A.RESTART})),
    *build_for_each("host_hung", (*STATEFUL, *SPARK), frozenset({_V.HOST_LOST, _V.PARTITIONED}),
          actions=ON_ITS_DISK, must=ON_ITS_DISK),
    *build_for_each("wrong_config", (*STATEFUL, *SPARK), frozenset({_V.MISCONFIGURED, *BACK_BY_ITSELF}),
          actions=frozenset({_A.RESTART}), must=frozenset({_A.RESTART}), may_kill_serving=True),
    *build_for_each("disk_full", STATEFUL, frozenset({_V.DISK_FULL, *BACK_BY_ITSELF}), actions=REBUILT, must=REBUILT),
    *build_for_each("clock_wrong", STATEFUL, frozenset({_V.CLOCK_WRONG, *BACK_BY_ITSELF}),
          actions=frozenset({_A.RESTART}), must=frozenset({_A.RESTART}), may_kill_serving=True, deadline_s=300),
    Scenario("corrupt_log", ("kafka-3",), frozenset({_V.MISCONFIGURED, *BACK_BY_ITSELF}), actions=ESCALATION),
    # It says so itself, once it has tried to start: a restart, or a new node on the same disk, would read the same.
    Scenario("corrupt_log", ("cassandra-3",), frozenset({_V.DATA_DAMAGED, *BACK_BY_ITSELF}), actions=REBUILT,
         must=REBUILT, deadline_s=300),
    # It starts without what it couldn't read, and its ranges are compared with its replicas.
    Scenario("corrupt_entry", ("cassandra-2",), BACK_BY_ITSELF, actions=frozenset({_A.RESTART}),
         says="was repaired with its replicas"),
    *build_for_each("tail_lost", STATEFUL, DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    Scenario("storage_away", ("kafka-1",), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    Scenario("process_killed", ("kafka-1", "kafka-2"), BACK_BY_ITSELF, actions=frozenset({_A.RESTART}),
         waives=BEYOND_SPARE),
    Scenario("process_killed", ("cassandra-1", "cassandra-2"), BACK_BY_ITSELF, actions=frozenset({_A.RESTART}),
         waives=BEYOND_SPARE),
    Scenario("power_off", ("kafka-1", "kafka-2"), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK,
         waives=BEYOND_SPARE),
    Scenario("power_off", ("cassandra-2", "cassandra-3"), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK,
         waives=BEYOND_SPARE),
    Scenario("volume_lost", ("cassandra-2", "cassandra-3"), DEAD, actions=REBUILT, must=REBUILT, asks=True,
         says="approved the recovery", pages=ExpectedPages.MUST, waives=BEYOND_SPARE),
    Scenario("volume_lost", ("kafka-2", "cassandra-1"), DEAD, actions=REBUILT, must=REBUILT),
    Scenario("volume_lost", ("kafka-1",), DEAD, actions=REBUILT, must=REBUILT, again=True, deadline_s=300),
    Scenario("power_off", FLEET, DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK, deadline_s=480,
         waives=BEYOND_SPARE),
)  # fmt: skip

# --- network and gray faults -------------------------------------------------------------------------------
#
# Designed outcome of every row up to the stalls and the starved machine: no act. The platform says that the node runs,
# or its peers hear it, so it is never killed, whatever our own probes say. Whether an incident is opened, and how it is
# called, is left open; it has to end by itself, or with a page.

ANY = frozenset(FailureMode)
KAFKA = tuple(name for name in FLEET if name.startswith("kafka"))
CASSANDRA = tuple(name for name in FLEET if name.startswith("cassandra"))
WORKERS = tuple(name for name in FLEET if name.startswith("spark-worker"))


def _without_action(
    fault: str, *groups: tuple[str, ...], pages: ExpectedPages = ExpectedPages.NONE
) -> list[Scenario]:
    """Return scenarios in which no node may be acted upon; a group of several nodes fails at once."""
    waives = {group: BEYOND_SPARE if len(group) > 1 else frozenset[Guard]() for group in groups}
    return [
        Scenario(fault, group, ANY, incident=False, pages=pages, waives=waives[group]) for group in groups
    ]


def _single_nodes(*names: str) -> list[tuple[str, ...]]:
    return [(name,) for name in names]


GRAY_SCENARIOS: Sequence[Scenario] = (
    *_without_action("network_reject", *_single_nodes("kafka-1", "cassandra-1", "spark-master-1", "spark-worker-1"),
                 pages=ExpectedPages.MAY),
    *_without_action("network_drop", *_single_nodes("kafka-2", "cassandra-2", "spark-master-1", "spark-worker-2"),
                 pages=ExpectedPages.MAY),
    *_without_action("network_one_way", *_single_nodes("kafka-3", "cassandra-3", "spark-master-1", "spark-worker-1"),
                 pages=ExpectedPages.MAY),
    *_without_action("network_delay", *_single_nodes("kafka-1", "cassandra-1", "spark-master-1", "spark-worker-2")),
    *_without_action("network_loss", *_single_nodes("kafka-2", "cassandra-2", "spark-master-1", "spark-worker-1")),
    *_without_action("slow_disk", *_single_nodes("kafka-3", "cassandra-3", "spark-master-1", "spark-worker-2")),
    # As long as a storage that stalls: all come back by themselves, so none is killed.
    *_without_action("stalled", KAFKA, CASSANDRA, ("spark-master-1",), WORKERS, pages=ExpectedPages.MAY),
    *_without_action("hosts_stalled", FLEET, pages=ExpectedPages.MAY),
    *_without_action("starved", FLEET, pages=ExpectedPages.MAY),
    # The platform has the disk, so an empty one never takes its place: a new node finds the old disk mounted.
    *build_for_each("volume_unmounted", STATEFUL, ANY, actions=frozenset({_A.RESTART, _A.REBUILD_NODE}),
              must=ON_ITS_DISK, pages=ExpectedPages.MAY, deadline_s=300),
    # The repair ends while S3 still hangs; the archive of its logs is left out or comes later.
    Scenario("s3_hangs", ("kafka-2",), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK),
    # The failure is the control plane's own. It never escalates to an empty disk, and ends when there is room again.
    Scenario("control_disk_full", ("cassandra-3",), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK,
             pages=ExpectedPages.MAY, deadline_s=300),
    Scenario("postgres_killed", ("kafka-3",), DEAD, actions=ON_ITS_DISK, must=ON_ITS_DISK,
             pages=ExpectedPages.MAY, deadline_s=300),
    # Its init starts it again each time, and nobody would ever know: the pattern is a page.
    Scenario("crash_loop", ("spark-worker-1",), BACK_BY_ITSELF, actions=frozenset({_A.RESTART}),
             pages=ExpectedPages.MUST),
)  # fmt: skip

SCENARIOS: Sequence[Scenario] = (*SERVER_SCENARIOS, *GRAY_SCENARIOS)


_NO_LOG = "it starts from no log of its own"
_SERVES_FULL = "it serves with a full disk; a stream that stands still for it calls a person"
_NO_TIME = "nothing that it does or says depends on its clock"
_NO_DRIVER = "the driver runs on the master's node"
_ONE_REPAIR = "what a repair wants of S3 is the same for every role"
_NO_NEED = "what a Spark node has on its disk it can do without"
_ONE_CONTROL_PLANE = "what a repair wants of the control plane is the same for every role"
_ONE_INIT = "every role's service has the same init, which starts it again"
_OF_SPARK = (Role.SPARK_MASTER, Role.SPARK_WORKER)
# Why a fault has no scenario for a role; the report has it as not run.
NOT_MADE: Mapping[tuple[str, Role], str] = {
    **dict.fromkeys(product(("corrupt_log", "corrupt_entry", "tail_lost"), _OF_SPARK), _NO_LOG),
    **dict.fromkeys(product(("disk_full",), _OF_SPARK), _SERVES_FULL),
    **dict.fromkeys(product(("clock_wrong",), _OF_SPARK), _NO_TIME),
    **dict.fromkeys(product(("storage_away",), (Role.CASSANDRA, *_OF_SPARK)), _ONE_REPAIR),
    **dict.fromkeys(product(("driver_killed",), (Role.KAFKA, Role.CASSANDRA, Role.SPARK_WORKER)), _NO_DRIVER),
    **dict.fromkeys(product(("volume_unmounted",), _OF_SPARK), _NO_NEED),
    **dict.fromkeys(product(("s3_hangs",), (Role.CASSANDRA, *_OF_SPARK)), _ONE_REPAIR),
    **dict.fromkeys(product(("control_disk_full",), (Role.KAFKA, *_OF_SPARK)), _ONE_CONTROL_PLANE),
    **dict.fromkeys(product(("postgres_killed",), (Role.CASSANDRA, *_OF_SPARK)), _ONE_CONTROL_PLANE),
    **dict.fromkeys(product(("crash_loop",), (Role.KAFKA, Role.CASSANDRA, Role.SPARK_MASTER)), _ONE_INIT),
    ("corrupt_entry", Role.KAFKA): "a broker treats every damage of its log alike: corrupt_log",
}

# Rows that no machine of this environment can make.
NOT_MADE_ANYWHERE: Mapping[str, str] = {
    "control_clock_step": (
        "control plane and nodes share the machine's clock, so a step would move all of them; libfaketime can step the "
        "clock of one process only when that process was started with it, which a running control plane was not"
    ),
}

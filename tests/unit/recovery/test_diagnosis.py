from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import Role
from kintsugi.core.observation import Headroom, NodeView, Observation, PeerOpinion, ProbeResult
from kintsugi.recovery.diagnosis import FULL_BELOW, FailureMode, diagnose_node

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
OK, REFUSED, TIMEOUT, WRONG = ProbeResult.OK, ProbeResult.REFUSED, ProbeResult.TIMEOUT, ProbeResult.WRONG
FULL, ROOM = Headroom(free=0, size=2**30), Headroom(free=FULL_BELOW, size=2**30)
MISPLACED = NodeView(listening=False, connected=False, answer=REFUSED, elsewhere=("127.35.1.1:9992",))
UP, DOWN, UNKNOWN = PeerOpinion.UP, PeerOpinion.DOWN, PeerOpinion.UNKNOWN


def seen(
    service: ProbeResult, ssh: ProbeResult, heard_s_ago: float | None = 60, **fields: Any
) -> Observation:
    heard = None if heard_s_ago is None else NOW - timedelta(seconds=heard_s_ago)
    return Observation("cassandra-2", Role.CASSANDRA, NOW, service, ssh, last_seen_at=heard, **fields)


def peers(*opinions: PeerOpinion) -> Mapping[str, PeerOpinion]:
    return dict(zip(("cassandra-1", "cassandra-3"), opinions, strict=False))


TABLE = [
    # what is seen                                              verdict, words of the reason
    (seen(OK, OK), FailureMode.FALSE_ALARM, "answers its own protocol."),
    (seen(OK, REFUSED), FailureMode.FALSE_ALARM, "but its sshd doesn't (ssh: refused)"),
    (seen(OK, OK, volume_intact=False), FailureMode.FALSE_ALARM, "its data directory is gone"),
    (
        seen(OK, TIMEOUT, peers=peers(DOWN, UP)),
        FailureMode.FALSE_ALARM,
        "it is down according to cassandra-1",
    ),
    (seen(OK, OK, init_state="FATAL"), FailureMode.FALSE_ALARM, "answers"),
    # it answers, by a clock of its own
    (seen(OK, OK, clock_ahead_s=3600.0), FailureMode.CLOCK_WRONG, "answers, but its clock is 3,600.0 s fast"),
    (seen(OK, OK, clock_ahead_s=-2.5), FailureMode.CLOCK_WRONG, "its clock is 2.5 s slow"),
    (seen(OK, OK, clock_ahead_s=2.0), FailureMode.FALSE_ALARM, "answers its own protocol."),
    (seen(REFUSED, OK, clock_ahead_s=3600.0), FailureMode.PROCESS_DOWN, "nothing listens"),
    # the host is there, its disk isn't
    (seen(REFUSED, OK, volume_intact=False), FailureMode.DISK_LOST, "its data directory is gone"),
    (seen(TIMEOUT, OK, volume_intact=False), FailureMode.DISK_LOST, "its data directory is gone"),
    (seen(REFUSED, OK, volume_intact=False, init_state="FATAL"), FailureMode.DISK_LOST, "data directory"),
    (seen(REFUSED, OK, volume_intact=False, init_state="STARTING"), FailureMode.DISK_LOST, "data directory"),
    # the host is there, its disk has no room left
    (seen(REFUSED, OK, room=FULL), FailureMode.DISK_FULL, "0 of 1,073,741,824 bytes are free"),
    (seen(REFUSED, OK, room=Headroom(FULL_BELOW - 1, 2**30)), FailureMode.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=ROOM), FailureMode.PROCESS_DOWN, "nothing listens"),
    # The volume is not mounted: a small file system shows in its place, and all of it is free.
    (seen(REFUSED, OK, room=Headroom(2**16, 2**16)), FailureMode.PROCESS_DOWN, "nothing listens"),
    (
        seen(REFUSED, OK, room=Headroom(2**16, 2**16), init_state="BACKOFF"),
        FailureMode.MISCONFIGURED,
        "exits each time",
    ),
    (seen(REFUSED, OK, room=FULL, init_state="BACKOFF"), FailureMode.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=FULL, init_state="STARTING"), FailureMode.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=FULL, progress="replaying"), FailureMode.DISK_FULL, "its disk is full"),
    (seen(TIMEOUT, OK, room=FULL), FailureMode.DISK_FULL, "its disk is full"),
    (seen(WRONG, OK, room=FULL), FailureMode.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=FULL, volume_intact=False), FailureMode.DISK_LOST, "its data directory is gone"),
    (seen(TIMEOUT, OK, heard_s_ago=5, room=FULL), FailureMode.FALSE_ALARM, "a pause"),
    (
        seen(OK, OK, room=FULL),
        FailureMode.FALSE_ALARM,
        "but its disk is full (0 of 1,073,741,824 bytes are free)",
    ),
    # the service says that its data can't be read
    (
        seen(REFUSED, OK, damage="its log says: Exiting"),
        FailureMode.DATA_DAMAGED,
        "can't read its data: its log says",
    ),
    (
        seen(REFUSED, OK, damage="said", init_state="STARTING"),
        FailureMode.DATA_DAMAGED,
        "can't read its data",
    ),
    (seen(REFUSED, OK, damage="said", init_state="BACKOFF"), FailureMode.DATA_DAMAGED, "can't read its data"),
    (seen(REFUSED, OK, damage="said", progress="replaying"), FailureMode.DATA_DAMAGED, "can't read its data"),
    (seen(REFUSED, OK, damage="said", room=FULL), FailureMode.DISK_FULL, "its disk is full"),
    (
        seen(REFUSED, OK, damage="said", volume_intact=False),
        FailureMode.DISK_LOST,
        "its data directory is gone",
    ),
    (seen(OK, OK, damage="said"), FailureMode.FALSE_ALARM, "answers its own protocol."),
    (seen(TIMEOUT, OK, damage="said"), FailureMode.HUNG, "answers no request"),
    # a pause is not a hang
    (seen(TIMEOUT, OK, heard_s_ago=5), FailureMode.FALSE_ALARM, "answered 5.0 s ago"),
    # its peers hear it, and nobody is served
    (
        seen(TIMEOUT, OK, 0, peers=peers(UP), unanswered_since=NOW - timedelta(seconds=30)),
        FailureMode.HUNG,
        "answers no request",
    ),
    (
        seen(TIMEOUT, OK, 0, peers=peers(UP), unanswered_since=NOW - timedelta(seconds=29)),
        FailureMode.FALSE_ALARM,
        "its peers hear it",
    ),
    (
        seen(TIMEOUT, OK, 5.1, peers=peers(UP), unanswered_since=NOW - timedelta(seconds=9)),
        FailureMode.HUNG,  # a worker's last heartbeat counts as "up" for 8 s at its master
        "answers no request",
    ),
    (
        seen(TIMEOUT, OK, heard_s_ago=0, unanswered_since=NOW - timedelta(seconds=7)),
        FailureMode.FALSE_ALARM,
        "a pause",
    ),
    (
        seen(TIMEOUT, TIMEOUT, heard_s_ago=0, unanswered_since=NOW - timedelta(seconds=60)),
        FailureMode.FALSE_ALARM,
        "a pause",
    ),
    (
        seen(TIMEOUT, OK, heard_s_ago=0, unanswered_since=NOW - timedelta(seconds=60), progress="replaying"),
        FailureMode.STARTING,
        "replaying",
    ),
    # something between us and a service that lives
    # Its peers hear it, and its process has just begun: no patience helps against a wrong port.
    (
        seen(REFUSED, OK, peers=peers(UP), progress="its process began 3 s ago", view=MISPLACED),
        FailureMode.MISCONFIGURED,
        "listens on 127.35.1.1:9992 instead of its own port",
    ),
    # What it listens on besides doesn't matter.
    (
        seen(REFUSED, OK, view=NodeView(listening=True, answer=REFUSED, elsewhere=("127.35.1.1:9992",))),
        FailureMode.PARTITIONED,
        "are refused",
    ),
    (seen(TIMEOUT, OK, view=NodeView(answer=OK)), FailureMode.PARTITIONED, "on the node itself"),
    (seen(REFUSED, OK, view=NodeView(answer=OK)), FailureMode.PARTITIONED, "on the node itself"),
    (
        seen(
            REFUSED, OK, init_state="RUNNING", view=NodeView(listening=True, connected=False, answer=REFUSED)
        ),
        FailureMode.PARTITIONED,
        "connections from here are refused",
    ),
    (
        seen(REFUSED, OK, view=NodeView(listening=False, answer=REFUSED)),
        FailureMode.PROCESS_DOWN,
        "nothing listens",
    ),
    (
        seen(
            TIMEOUT,
            OK,
            0,
            peers=peers(UP),
            unanswered_since=NOW - timedelta(seconds=90),
            view=NodeView(listening=True, connected=False, answer=TIMEOUT),
        ),
        FailureMode.PARTITIONED,
        "packets are lost",
    ),
    (
        seen(TIMEOUT, OK, peers=peers(DOWN), view=NodeView(listening=True, connected=False, answer=TIMEOUT)),
        FailureMode.HUNG,  # a stopped process whose backlog is full looks the same, and no peer hears it
        "answers no request",
    ),
    (
        seen(TIMEOUT, TIMEOUT, heard_s_ago=7.9),
        FailureMode.FALSE_ALARM,
        "answered 7.9 s ago. This counts as a pause",
    ),
    (seen(TIMEOUT, OK, heard_s_ago=8), FailureMode.HUNG, "answers no request"),
    (seen(TIMEOUT, OK, heard_s_ago=None), FailureMode.HUNG, "answers no request"),
    (seen(TIMEOUT, OK, init_state="RUNNING"), FailureMode.HUNG, "(init state RUNNING)"),
    (seen(TIMEOUT, WRONG), FailureMode.HUNG, "ssh: wrong"),
    # its platform says that it doesn't run: proof, whatever the peers believe
    (
        seen(REFUSED, REFUSED, running=False),
        FailureMode.HOST_LOST,
        "does not run: the platform says so, and neither its service nor its sshd answers; it is unknown",
    ),
    (seen(REFUSED, REFUSED, heard_s_ago=1, running=False), FailureMode.HOST_LOST, "does not run"),
    (seen(TIMEOUT, TIMEOUT, heard_s_ago=1, running=False), FailureMode.HOST_LOST, "does not run"),
    (
        seen(REFUSED, REFUSED, peers=peers(UP, UP), running=False),
        FailureMode.HOST_LOST,
        "not yet noticed by cassandra-1 and cassandra-3",
    ),
    (
        seen(REFUSED, REFUSED, running=False, volume_intact=True),
        FailureMode.HOST_LOST,
        "its volume is intact",
    ),
    (seen(REFUSED, REFUSED, running=False, volume_intact=False), FailureMode.HOST_LOST, "its volume is gone"),
    (
        seen(REFUSED, OK, running=False),
        FailureMode.PROCESS_DOWN,
        "nothing listens",
    ),  # whose sshd answers runs
    # refused or silent on both: the peers decide
    *(
        case
        for service, ssh in ((TIMEOUT, TIMEOUT), (REFUSED, REFUSED), (TIMEOUT, REFUSED), (REFUSED, TIMEOUT))
        for case in (
            (
                seen(service, ssh, peers=peers(UP, DOWN)),
                FailureMode.PARTITIONED,
                "cassandra-1 can still reach it",
            ),
            (
                seen(service, ssh, peers=peers(UP), running=True),
                FailureMode.PARTITIONED,
                "can still reach it",
            ),
            (
                seen(service, ssh, peers=peers(UNKNOWN, UNKNOWN)),
                FailureMode.PARTITIONED,
                "the control plane itself may be cut off",
            ),
            (
                seen(service, ssh, peers=peers(UNKNOWN, UNKNOWN), running=True),
                FailureMode.HOST_LOST,  # the common cause and the quorum are the guards' to see
                "no peer can reach it; the platform says that it still runs",
            ),
            (
                seen(service, ssh, peers=peers(DOWN, UNKNOWN)),
                FailureMode.HOST_LOST,
                "down according to cassandra-1",
            ),
            (
                seen(service, ssh, peers=peers(DOWN, DOWN)),
                FailureMode.HOST_LOST,
                "cassandra-1 and cassandra-3",
            ),
            (seen(service, ssh), FailureMode.HOST_LOST, "no peer can reach it"),
        )
    ),
    # on its way up
    (seen(REFUSED, OK, init_state="STARTING"), FailureMode.STARTING, "its init has just started the service"),
    (
        seen(REFUSED, OK, init_state="RUNNING", progress="replaying"),
        FailureMode.STARTING,
        "starting: replaying",
    ),
    (seen(WRONG, OK, init_state="RUNNING", progress="joining"), FailureMode.STARTING, "starting: joining"),
    (seen(TIMEOUT, OK, progress="replaying"), FailureMode.STARTING, "starting: replaying"),
    (seen(REFUSED, OK, init_state="BACKOFF", progress="second try"), FailureMode.STARTING, "second try"),
    # it won't run as it is
    (seen(REFUSED, OK, init_state="FATAL"), FailureMode.MISCONFIGURED, "init state FATAL"),
    (seen(REFUSED, OK, init_state="BACKOFF"), FailureMode.MISCONFIGURED, "init state BACKOFF"),
    (seen(WRONG, OK, init_state="RUNNING"), FailureMode.MISCONFIGURED, "invalid in its protocol"),
    (seen(WRONG, REFUSED), FailureMode.MISCONFIGURED, "ssh: refused"),
    # it just doesn't run
    (seen(REFUSED, OK, init_state="EXITED"), FailureMode.PROCESS_DOWN, "nothing listens"),
    (seen(REFUSED, OK, init_state="STOPPED"), FailureMode.PROCESS_DOWN, "init state STOPPED"),
    (seen(REFUSED, OK, init_state="RUNNING"), FailureMode.PROCESS_DOWN, "init state RUNNING"),
    (seen(REFUSED, OK), FailureMode.PROCESS_DOWN, "nothing listens"),
    (seen(REFUSED, WRONG), FailureMode.PROCESS_DOWN, "ssh: wrong"),
]


@pytest.mark.parametrize(("observation", "verdict", "words"), TABLE)
def test_what_is_seen_leads_to_the_verdict_and_its_reason(
    observation: Observation, verdict: FailureMode, words: str
) -> None:
    diagnosis = diagnose_node(observation)
    assert diagnosis.verdict is verdict
    assert words in diagnosis.reason


observations = st.builds(
    Observation,
    node=st.just("kafka-1"),
    role=st.sampled_from(Role),
    at=st.just(NOW),
    service=st.sampled_from(ProbeResult),
    ssh=st.sampled_from(ProbeResult),
    init_state=st.sampled_from([None, "RUNNING", "STARTING", "BACKOFF", "STOPPED", "EXITED", "FATAL"]),
    volume_intact=st.sampled_from([None, True, False]),
    room=st.sampled_from([None, FULL, ROOM]),
    peers=st.dictionaries(st.sampled_from(["kafka-2", "kafka-3"]), st.sampled_from(PeerOpinion)),
    progress=st.sampled_from([None, "replaying"]),
    clock_ahead_s=st.sampled_from([None, 0.0, 1.9, -3600.0]),
    running=st.sampled_from([None, True, False]),
    view=st.builds(
        NodeView,
        listening=st.sampled_from([None, True, False]),
        connected=st.sampled_from([None, True, False]),
        answer=st.sampled_from([None, *ProbeResult]),
    ),
    last_seen_at=st.none() | st.floats(0, 30).map(lambda ago: NOW - timedelta(seconds=ago)),
)


@given(observations)
def test_the_reason_is_one_sentence_that_names_the_node(observation: Observation) -> None:
    reason = diagnose_node(observation).reason
    assert reason.startswith("kafka-1")
    assert reason.endswith(".")
    assert "\n" not in reason


@given(observations)
def test_a_node_that_answers_may_have_a_wrong_clock_and_nothing_worse(observation: Observation) -> None:
    if observation.service is ProbeResult.OK:
        off = abs(observation.clock_ahead_s or 0.0) > 2.0
        assert diagnose_node(observation).verdict is (
            FailureMode.CLOCK_WRONG if off else FailureMode.FALSE_ALARM
        )


@given(observations)
def test_a_host_that_a_peer_hears_is_lost_only_by_its_platforms_word(observation: Observation) -> None:
    if observation.running is not False and UP in observation.peers.values():
        assert diagnose_node(observation).verdict is not FailureMode.HOST_LOST


@given(observations)
def test_a_host_that_answers_ssh_is_never_lost(observation: Observation) -> None:
    if observation.ssh is ProbeResult.OK:
        assert diagnose_node(observation).verdict is not FailureMode.HOST_LOST


@given(observations)
def test_a_service_that_its_own_node_finds_well_is_never_acted_upon(observation: Observation) -> None:
    if observation.ssh is ProbeResult.OK and observation.view.answer is ProbeResult.OK:
        assert diagnose_node(observation).verdict not in (
            FailureMode.HUNG,
            FailureMode.PROCESS_DOWN,
            FailureMode.MISCONFIGURED,
        )

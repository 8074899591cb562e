from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import Role
from kintsugi.core.observation import Answer, Headroom, NodeView, Observation, PeerOpinion
from kintsugi.recovery.diagnosis import FULL_BELOW, Verdict, diagnose

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
OK, REFUSED, TIMEOUT, WRONG = Answer.OK, Answer.REFUSED, Answer.TIMEOUT, Answer.WRONG
FULL, ROOM = Headroom(free=0, size=2**30), Headroom(free=FULL_BELOW, size=2**30)
UP, DOWN, UNKNOWN = PeerOpinion.UP, PeerOpinion.DOWN, PeerOpinion.UNKNOWN


def seen(service: Answer, ssh: Answer, heard_s_ago: float | None = 60, **fields: Any) -> Observation:
    heard = None if heard_s_ago is None else NOW - timedelta(seconds=heard_s_ago)
    return Observation("cassandra-2", Role.CASSANDRA, NOW, service, ssh, heard_at=heard, **fields)


def peers(*opinions: PeerOpinion) -> Mapping[str, PeerOpinion]:
    return dict(zip(("cassandra-1", "cassandra-3"), opinions, strict=False))


TABLE = [
    # what is seen                                              verdict, words of the reason
    (seen(OK, OK), Verdict.FALSE_ALARM, "answers its own protocol."),
    (seen(OK, REFUSED), Verdict.FALSE_ALARM, "but its sshd doesn't (ssh: refused)"),
    (seen(OK, OK, volume_intact=False), Verdict.FALSE_ALARM, "its data directory is gone"),
    (seen(OK, TIMEOUT, peers=peers(DOWN, UP)), Verdict.FALSE_ALARM, "it is down according to cassandra-1"),
    (seen(OK, OK, init_state="FATAL"), Verdict.FALSE_ALARM, "answers"),
    # it answers, by a clock of its own
    (seen(OK, OK, clock_ahead_s=3600.0), Verdict.CLOCK_WRONG, "answers, but its clock is 3,600.0 s fast"),
    (seen(OK, OK, clock_ahead_s=-2.5), Verdict.CLOCK_WRONG, "its clock is 2.5 s slow"),
    (seen(OK, OK, clock_ahead_s=2.0), Verdict.FALSE_ALARM, "answers its own protocol."),
    (seen(REFUSED, OK, clock_ahead_s=3600.0), Verdict.PROCESS_DOWN, "nothing listens"),
    # the host is there, its disk isn't
    (seen(REFUSED, OK, volume_intact=False), Verdict.DISK_LOST, "its data directory is gone"),
    (seen(TIMEOUT, OK, volume_intact=False), Verdict.DISK_LOST, "its data directory is gone"),
    (seen(REFUSED, OK, volume_intact=False, init_state="FATAL"), Verdict.DISK_LOST, "data directory"),
    (seen(REFUSED, OK, volume_intact=False, init_state="STARTING"), Verdict.DISK_LOST, "data directory"),
    # the host is there, its disk has no room left
    (seen(REFUSED, OK, room=FULL), Verdict.DISK_FULL, "0 of 1,073,741,824 bytes are free"),
    (seen(REFUSED, OK, room=Headroom(FULL_BELOW - 1, 2**30)), Verdict.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=ROOM), Verdict.PROCESS_DOWN, "nothing listens"),
    (seen(REFUSED, OK, room=FULL, init_state="BACKOFF"), Verdict.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=FULL, init_state="STARTING"), Verdict.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=FULL, progress="replaying"), Verdict.DISK_FULL, "its disk is full"),
    (seen(TIMEOUT, OK, room=FULL), Verdict.DISK_FULL, "its disk is full"),
    (seen(WRONG, OK, room=FULL), Verdict.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, room=FULL, volume_intact=False), Verdict.DISK_LOST, "its data directory is gone"),
    (seen(TIMEOUT, OK, heard_s_ago=5, room=FULL), Verdict.FALSE_ALARM, "a pause"),
    (
        seen(OK, OK, room=FULL),
        Verdict.FALSE_ALARM,
        "but its disk is full (0 of 1,073,741,824 bytes are free)",
    ),
    # the service says that its data can't be read
    (
        seen(REFUSED, OK, damage="its log says: Exiting"),
        Verdict.DATA_DAMAGED,
        "can't read its data: its log says",
    ),
    (seen(REFUSED, OK, damage="said", init_state="STARTING"), Verdict.DATA_DAMAGED, "can't read its data"),
    (seen(REFUSED, OK, damage="said", init_state="BACKOFF"), Verdict.DATA_DAMAGED, "can't read its data"),
    (seen(REFUSED, OK, damage="said", progress="replaying"), Verdict.DATA_DAMAGED, "can't read its data"),
    (seen(REFUSED, OK, damage="said", room=FULL), Verdict.DISK_FULL, "its disk is full"),
    (seen(REFUSED, OK, damage="said", volume_intact=False), Verdict.DISK_LOST, "its data directory is gone"),
    (seen(OK, OK, damage="said"), Verdict.FALSE_ALARM, "answers its own protocol."),
    (seen(TIMEOUT, OK, damage="said"), Verdict.HUNG, "answers no request"),
    # a pause is not a hang
    (seen(TIMEOUT, OK, heard_s_ago=5), Verdict.FALSE_ALARM, "answered 5.0 s ago"),
    # its peers hear it, and nobody is served
    (
        seen(TIMEOUT, OK, 0, peers=peers(UP), unanswered_since=NOW - timedelta(seconds=30)),
        Verdict.HUNG,
        "answers no request",
    ),
    (
        seen(TIMEOUT, OK, 0, peers=peers(UP), unanswered_since=NOW - timedelta(seconds=29)),
        Verdict.FALSE_ALARM,
        "its peers hear it",
    ),
    (
        seen(TIMEOUT, OK, 5.1, peers=peers(UP), unanswered_since=NOW - timedelta(seconds=9)),
        Verdict.HUNG,  # a worker's last heartbeat counts as "up" for 8 s at its master
        "answers no request",
    ),
    (
        seen(TIMEOUT, OK, heard_s_ago=0, unanswered_since=NOW - timedelta(seconds=7)),
        Verdict.FALSE_ALARM,
        "a pause",
    ),
    (
        seen(TIMEOUT, TIMEOUT, heard_s_ago=0, unanswered_since=NOW - timedelta(seconds=60)),
        Verdict.FALSE_ALARM,
        "a pause",
    ),
    (
        seen(TIMEOUT, OK, heard_s_ago=0, unanswered_since=NOW - timedelta(seconds=60), progress="replaying"),
        Verdict.STARTING,
        "replaying",
    ),
    # something between us and a service that lives
    (seen(TIMEOUT, OK, view=NodeView(answer=OK)), Verdict.PARTITIONED, "on the node itself"),
    (seen(REFUSED, OK, view=NodeView(answer=OK)), Verdict.PARTITIONED, "on the node itself"),
    (
        seen(
            REFUSED, OK, init_state="RUNNING", view=NodeView(listening=True, connected=False, answer=REFUSED)
        ),
        Verdict.PARTITIONED,
        "connections from here are refused",
    ),
    (
        seen(REFUSED, OK, view=NodeView(listening=False, answer=REFUSED)),
        Verdict.PROCESS_DOWN,
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
        Verdict.PARTITIONED,
        "packets are lost",
    ),
    (
        seen(TIMEOUT, OK, peers=peers(DOWN), view=NodeView(listening=True, connected=False, answer=TIMEOUT)),
        Verdict.HUNG,  # a stopped process whose backlog is full looks the same, and no peer hears it
        "answers no request",
    ),
    (
        seen(TIMEOUT, TIMEOUT, heard_s_ago=7.9),
        Verdict.FALSE_ALARM,
        "answered 7.9 s ago. This counts as a pause",
    ),
    (seen(TIMEOUT, OK, heard_s_ago=8), Verdict.HUNG, "answers no request"),
    (seen(TIMEOUT, OK, heard_s_ago=None), Verdict.HUNG, "answers no request"),
    (seen(TIMEOUT, OK, init_state="RUNNING"), Verdict.HUNG, "(init state RUNNING)"),
    (seen(TIMEOUT, WRONG), Verdict.HUNG, "ssh: wrong"),
    # its platform says that it doesn't run: proof, whatever the peers believe
    (
        seen(REFUSED, REFUSED, running=False),
        Verdict.HOST_LOST,
        "does not run: the platform says so, and neither its service nor its sshd answers; it is unknown",
    ),
    (seen(REFUSED, REFUSED, heard_s_ago=1, running=False), Verdict.HOST_LOST, "does not run"),
    (seen(TIMEOUT, TIMEOUT, heard_s_ago=1, running=False), Verdict.HOST_LOST, "does not run"),
    (
        seen(REFUSED, REFUSED, peers=peers(UP, UP), running=False),
        Verdict.HOST_LOST,
        "not yet noticed by cassandra-1 and cassandra-3",
    ),
    (seen(REFUSED, REFUSED, running=False, volume_intact=True), Verdict.HOST_LOST, "its volume is intact"),
    (seen(REFUSED, REFUSED, running=False, volume_intact=False), Verdict.HOST_LOST, "its volume is gone"),
    (seen(REFUSED, OK, running=False), Verdict.PROCESS_DOWN, "nothing listens"),  # whose sshd answers runs
    # refused or silent on both: the peers decide
    *(
        case
        for service, ssh in ((TIMEOUT, TIMEOUT), (REFUSED, REFUSED), (TIMEOUT, REFUSED), (REFUSED, TIMEOUT))
        for case in (
            (
                seen(service, ssh, peers=peers(UP, DOWN)),
                Verdict.PARTITIONED,
                "cassandra-1 can still reach it",
            ),
            (seen(service, ssh, peers=peers(UP), running=True), Verdict.PARTITIONED, "can still reach it"),
            (
                seen(service, ssh, peers=peers(UNKNOWN, UNKNOWN)),
                Verdict.PARTITIONED,
                "the control plane itself may be cut off",
            ),
            (
                seen(service, ssh, peers=peers(UNKNOWN, UNKNOWN), running=True),
                Verdict.HOST_LOST,  # the common cause and the quorum are the guards' to see
                "no peer can reach it; the platform says that it still runs",
            ),
            (
                seen(service, ssh, peers=peers(DOWN, UNKNOWN)),
                Verdict.HOST_LOST,
                "down according to cassandra-1",
            ),
            (seen(service, ssh, peers=peers(DOWN, DOWN)), Verdict.HOST_LOST, "cassandra-1 and cassandra-3"),
            (seen(service, ssh), Verdict.HOST_LOST, "no peer can reach it"),
        )
    ),
    # on its way up
    (seen(REFUSED, OK, init_state="STARTING"), Verdict.STARTING, "its init has just started the service"),
    (seen(REFUSED, OK, init_state="RUNNING", progress="replaying"), Verdict.STARTING, "starting: replaying"),
    (seen(WRONG, OK, init_state="RUNNING", progress="joining"), Verdict.STARTING, "starting: joining"),
    (seen(TIMEOUT, OK, progress="replaying"), Verdict.STARTING, "starting: replaying"),
    (seen(REFUSED, OK, init_state="BACKOFF", progress="second try"), Verdict.STARTING, "second try"),
    # it won't run as it is
    (seen(REFUSED, OK, init_state="FATAL"), Verdict.MISCONFIGURED, "init state FATAL"),
    (seen(REFUSED, OK, init_state="BACKOFF"), Verdict.MISCONFIGURED, "init state BACKOFF"),
    (seen(WRONG, OK, init_state="RUNNING"), Verdict.MISCONFIGURED, "invalid in its protocol"),
    (seen(WRONG, REFUSED), Verdict.MISCONFIGURED, "ssh: refused"),
    # it just doesn't run
    (seen(REFUSED, OK, init_state="EXITED"), Verdict.PROCESS_DOWN, "nothing listens"),
    (seen(REFUSED, OK, init_state="STOPPED"), Verdict.PROCESS_DOWN, "init state STOPPED"),
    (seen(REFUSED, OK, init_state="RUNNING"), Verdict.PROCESS_DOWN, "init state RUNNING"),
    (seen(REFUSED, OK), Verdict.PROCESS_DOWN, "nothing listens"),
    (seen(REFUSED, WRONG), Verdict.PROCESS_DOWN, "ssh: wrong"),
]


@pytest.mark.parametrize(("observation", "verdict", "words"), TABLE)
def test_what_is_seen_leads_to_the_verdict_and_its_reason(
    observation: Observation, verdict: Verdict, words: str
) -> None:
    diagnosis = diagnose(observation)
    assert diagnosis.verdict is verdict
    assert words in diagnosis.reason


observations = st.builds(
    Observation,
    node=st.just("kafka-1"),
    role=st.sampled_from(Role),
    at=st.just(NOW),
    service=st.sampled_from(Answer),
    ssh=st.sampled_from(Answer),
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
        answer=st.sampled_from([None, *Answer]),
    ),
    heard_at=st.none() | st.floats(0, 30).map(lambda ago: NOW - timedelta(seconds=ago)),
)


@given(observations)
def test_the_reason_is_one_sentence_that_names_the_node(observation: Observation) -> None:
    reason = diagnose(observation).reason
    assert reason.startswith("kafka-1")
    assert reason.endswith(".")
    assert "\n" not in reason


@given(observations)
def test_a_node_that_answers_may_have_a_wrong_clock_and_nothing_worse(observation: Observation) -> None:
    if observation.service is Answer.OK:
        off = abs(observation.clock_ahead_s or 0.0) > 2.0
        assert diagnose(observation).verdict is (Verdict.CLOCK_WRONG if off else Verdict.FALSE_ALARM)


@given(observations)
def test_a_host_that_a_peer_hears_is_lost_only_by_its_platforms_word(observation: Observation) -> None:
    if observation.running is not False and UP in observation.peers.values():
        assert diagnose(observation).verdict is not Verdict.HOST_LOST


@given(observations)
def test_a_host_that_answers_ssh_is_never_lost(observation: Observation) -> None:
    if observation.ssh is Answer.OK:
        assert diagnose(observation).verdict is not Verdict.HOST_LOST


@given(observations)
def test_a_service_that_its_own_node_finds_well_is_never_acted_upon(observation: Observation) -> None:
    if observation.ssh is Answer.OK and observation.view.answer is Answer.OK:
        assert diagnose(observation).verdict not in (
            Verdict.HUNG,
            Verdict.PROCESS_DOWN,
            Verdict.MISCONFIGURED,
        )

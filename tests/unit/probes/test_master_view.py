"""What a worker's look says of the Spark master."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kintsugi.core.observation import Answer, PeerOpinion
from kintsugi.probes.master_view import judge_look

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "established", "opinion", "heard"),
    [
        (Answer.OK, True, PeerOpinion.UP, True),
        (Answer.OK, False, PeerOpinion.UP, True),
        (Answer.REFUSED, True, PeerOpinion.UP, True),  # a firewall refuses in its place
        (Answer.REFUSED, False, PeerOpinion.DOWN, False),
        (Answer.TIMEOUT, True, PeerOpinion.DOWN, False),  # a stopped process keeps its connections
        (Answer.WRONG, True, PeerOpinion.DOWN, False),
        (None, False, PeerOpinion.UNKNOWN, False),
    ],
)
def test_a_workers_look(answer: Answer | None, established: bool, opinion: PeerOpinion, heard: bool) -> None:
    witness = judge_look("spark-worker-1", answer, established, NOW)
    assert witness.opinion is opinion
    assert (witness.heard_at == NOW) is heard

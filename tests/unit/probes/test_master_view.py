"""What a worker's look says of the Spark master."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kintsugi.core.observation import PeerOpinion, ProbeResult
from kintsugi.probes.master_view import worker_view

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "established", "opinion", "heard"),
    [
        (ProbeResult.OK, True, PeerOpinion.UP, True),
        (ProbeResult.OK, False, PeerOpinion.UP, True),
        (ProbeResult.REFUSED, True, PeerOpinion.UP, True),  # a firewall refuses in its place
        (ProbeResult.REFUSED, False, PeerOpinion.DOWN, False),
        (ProbeResult.TIMEOUT, True, PeerOpinion.DOWN, False),  # a stopped process keeps its connections
        (ProbeResult.WRONG, True, PeerOpinion.DOWN, False),
        (None, False, PeerOpinion.UNKNOWN, False),
    ],
)
def test_a_workers_look(
    answer: ProbeResult | None, established: bool, opinion: PeerOpinion, heard: bool
) -> None:
    witness = worker_view("spark-worker-1", answer, established, NOW)
    assert witness.opinion is opinion
    assert (witness.last_seen_at == NOW) is heard

"""What counts as found, late, lost and false; and a small fleet of stand-ins, watched for real."""

from __future__ import annotations

from typing import Any

from benchmarks.fleet_simulation.figures import spread
from benchmarks.fleet_simulation.probes import ProbeRun, judge_answer, judge_detections, plan_faults
from benchmarks.fleet_simulation.simulated_fleet import simulated_fleet
from benchmarks.fleet_simulation.stand_ins import NodeFault


def fault(node: str, kind: NodeFault, t0: float) -> dict[str, Any]:
    return {"node": node, "fault": kind, "t0": t0}


def test_findings_are_compared_with_faults() -> None:
    faults = [
        fault("kafka-1", NodeFault.REFUSE, 100.0),
        fault("kafka-2", NodeFault.REFUSE, 100.0),
        fault("kafka-3", NodeFault.HANG, 100.0),
        fault("kafka-4", NodeFault.HANG, 100.0),
        fault("kafka-5", NodeFault.PAUSE, 100.0),
        fault("kafka-6", NodeFault.REFUSE, 100.0),
    ]
    findings = [
        {"node": "kafka-1", "at": 103.0},
        {"node": "kafka-2", "at": 109.5},
        {"node": "kafka-3", "at": 109.5},
        {"node": "kafka-5", "at": 109.0},
        {"node": "kafka-6", "at": 99.0},
        {"node": "kafka-7", "at": 105.0},
    ]
    judged = judge_detections(faults, findings)
    assert judged["faults"] == {"refuse": 3, "hang": 2, "pause": 1}
    assert judged["detected_s"]["refuse"]["max"] == 9.5
    assert judged["detected_s"]["hang"] == {"n": 1, "min": 9.5, "p50": 9.5, "p99": 9.5, "max": 9.5}
    assert judged["lost"] == ["kafka-4", "kafka-6"]
    assert judged["late"] == ["kafka-2"]
    assert judged["false"] == ["kafka-5", "kafka-6", "kafka-7"]


def test_a_node_that_answers_and_is_taken_for_silent_is_false() -> None:
    answer = {"s": 2.2, "cpu_s": 0.1, "blocked_s": 0.0, "silent": ["kafka-1", "kafka-2", "kafka-3"]}
    faults = [fault("kafka-1", NodeFault.HANG, 1.0), fault("kafka-2", NodeFault.PAUSE, 1.0)]
    judged = judge_answer(answer, faults)
    assert (judged["silent"], judged["false"]) == (3, 2)


def test_a_plan_is_seeded_and_breaks_each_node_once() -> None:
    fleet = simulated_fleet(100, mutual_tls=False)
    plans = [plan_faults(fleet, ProbeRun(100, 50.0, mutual_tls=False, seed=seed)) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]
    names = [planned.node for planned in plans[0]]
    assert len(names) == len(set(names))
    kinds = [planned.fault for planned in plans[0]]
    assert (kinds.count(NodeFault.HANG), kinds.count(NodeFault.PAUSE)) == (2, 2)
    assert kinds.count(NodeFault.REFUSE) > 30  # four single nodes, and what is left of a zone
    assert max(planned.at_s for planned in plans[0]) <= 50.0 - 17.0


def test_a_spread_has_count_and_percentiles_by_nearest_rank() -> None:
    assert spread([]) == {"n": 0}
    assert spread([3.0]) == {"n": 1, "min": 3.0, "p50": 3.0, "p99": 3.0, "max": 3.0}
    assert spread([float(value) for value in range(100, 0, -1)]) == {
        "n": 100, "min": 1.0, "p50": 50.0, "p99": 99.0, "max": 100.0,
    }  # fmt: skip

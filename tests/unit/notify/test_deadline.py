from __future__ import annotations

from kintsugi.notify.deadline import page_of

RUN = {"dag_id": "recover_node", "dag_run_id": "manual__1", "conf": {"node": "kafka-2"}}


def test_a_late_run_is_told_with_its_node_and_where_to_look() -> None:
    page = page_of(RUN, 30)
    assert all(fact in page["title"] for fact in ("recover_node", "kafka-2", "30 minutes"))
    assert "manual__1" in page["text"]


def test_a_run_without_a_node_is_told_by_its_dag() -> None:
    title = page_of({**RUN, "dag_id": "deploy_release", "conf": None}, 90)["title"]
    assert all(fact in title for fact in ("deploy_release", "90 minutes"))
    assert "None" not in title

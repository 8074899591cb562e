from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.throughput import document, plot, run
from kintsugi.core.errors import InputError

SECTIONS: dict[str, dict[str, Any]] = {
    "ingest": {
        "ingest_rows_per_s": 9000,
        "ingest_kafka_python_rows_per_s": 15000,
        "ingest_naive_rows_per_s": 300,
    },
    "end_to_end": {
        "end_to_end_trades_per_s": 3100,
        "lost": 0,
        "doubled": 1,
        "series": [(0.0, 0), (1.0, 3100)],
    },
    "ceiling": {
        "ceiling_trades_per_s": 7000,
        "sweep": [{"batch": 30, "in_flight": 16, "processes": 1, "rows_per_s": 7000}],
    },
    "naive": {
        "naive_trades_per_s": 1900,
        "sweep": [{"batch": 1, "in_flight": 64, "processes": 1, "rows_per_s": 1900}],
    },
    "latency": {
        "latency_ms": {"p50": 700.0, "p95": 1500.0, "p99": 2100.0},
        "latency_s3_ms": {"p50": 1700.0, "p95": 6500.0, "p99": 9100.0},
        "lost": 0,
    },
    "spike": {"spike": {"trades": 100_000, "lost": 2, "drain_s": 41.0}, "series": [(0.0, 5), (1.0, 90_000)]},
    "growth": {"growth": [{"level": 1, "rows": 9000, "trades_per_s": 1800, "cpu_s_per_trade": 3e-4}]},
    "rival": {
        "drain_trades_per_s": 6000,
        "rival_rows_per_s": 5000,
        "rival_defaults_rows_per_s": 2000,
        "lost": 0,
        "sweep": [{"rows_per_trigger": 20_000, "rows_per_s": 5000}],
    },
}
MACHINE = {"cores": 2}


def test_the_report_holds_the_figures_by_their_agreed_names() -> None:
    shown = document.build_document(SECTIONS, MACHINE, {})
    assert shown["ratios"] == {
        "ingest_to_kafka_python": 0.6, "ingest_to_naive": 30.0, "end_to_end_to_ceiling": 0.443,
        "end_to_end_to_naive": 1.632, "naive_to_ceiling": 0.271, "drain_to_rival": 1.2,
    }  # fmt: skip
    assert shown["latency_ms"]["p99"] == 2100.0
    assert shown["spike"] == {"trades": 100_000, "lost": 2, "drain_s": 41.0}
    assert shown["growth"][0]["trades_per_s"] == 1800
    assert (shown["lost"], shown["doubled"]) == (2, 1)
    assert all(aim["met"] for aim in shown["aims"].values())


def test_a_section_that_was_not_run_leaves_its_figures_unknown_and_its_aims_unmet() -> None:
    shown = document.build_document({"ceiling": SECTIONS["ceiling"]}, MACHINE, {})
    assert shown["end_to_end_trades_per_s"] is None
    assert shown["ratios"]["end_to_end_to_ceiling"] is None
    assert shown["aims"]["end_to_end_to_ceiling"] == {"wanted": 0.4, "measured": None, "met": False}


@pytest.mark.parametrize("sections", [SECTIONS, {"ingest": SECTIONS["ingest"]}, {}])
def test_a_table_and_a_picture_come_of_whatever_was_measured(
    sections: dict[str, Any], tmp_path: Path
) -> None:
    shown = document.build_document(sections, MACHINE, {})
    figures = {row[0] for row in document.format_rows(shown)}
    assert ("ingest_rows_per_s" in figures) == ("ingest" in sections)
    plot.draw_report(shown, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_sections_run_in_their_order_and_a_wrong_name_is_refused() -> None:
    assert run.choose_sections(["ceiling", "ingest"]) == ["ingest", "ceiling"]
    assert run.choose_sections([]) == list(run.SECTIONS)
    with pytest.raises(InputError, match="no section is called speed"):
        run.choose_sections(["speed"])


def test_a_killed_run_goes_on_with_its_seed_and_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    first = run.BenchState.load(path, ["ingest", "ceiling"], None, 60.0)
    first.add_result("ingest", SECTIONS["ingest"])
    again = run.BenchState.load(path, ["ingest", "ceiling"], None, 60.0)
    assert (again.seed, list(again.results)) == (first.seed, ["ingest"])
    other = run.BenchState.load(path, ["ingest"], None, 60.0)
    assert other.results == {}


def test_an_old_or_different_run_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    run.BenchState.load(path, ["ingest"], 5, 60.0).add_result("ingest", SECTIONS["ingest"])
    assert run.BenchState.load(path, ["ingest"], 5, 60.0).results
    monkeypatch.setattr(run, "RESUME_S", 0.0)
    assert not run.BenchState.load(path, ["ingest"], 5, 60.0).results

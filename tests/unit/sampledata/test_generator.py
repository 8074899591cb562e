from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path

import pytest

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest.trade_header import header_fault
from kintsugi.pipeline.row_parser import Rejection, Trade, is_cancel, parse_trade
from kintsugi.sampledata.generator import GeneratedDay, generate_day, live_parts
from kintsugi.sampledata.injected_behaviour import LEVELS

DAY = date(2024, 10, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GeneratedDay:
    return generate_day(tmp_path_factory.mktemp("day"), day=DAY, seed=1, trades=6000, parts=3, bad_rows=6)


def parsed(files: list[Path]) -> list[Trade | Rejection]:
    lines = [line for file in files for line in file.read_bytes().split(b"\n")[1:-1]]
    return [parse_trade(line.decode(errors="replace")) for line in lines]


def test_what_it_says_is_what_it_wrote(made: GeneratedDay) -> None:
    rows = parsed(made.trade_files)
    trades = [row for row in rows if isinstance(row, Trade)]
    assert len(rows) == made.rows
    assert len(rows) - len(trades) == made.bad_rows == 6
    assert len({trade.trade_id for trade in trades}) == made.trades == 6000
    assert len(trades) - made.trades == made.duplicates == 10


def test_the_bad_rows_are_bad_in_different_ways(made: GeneratedDay) -> None:
    assert len({row.reason for row in parsed(made.trade_files) if isinstance(row, Rejection)}) >= 5


def test_files_are_laid_out_as_in_s3(made: GeneratedDay) -> None:
    names = [f"{file.parent.name}/{file.name}" for file in made.trade_files]
    assert names == [f"2024-10-08/UnderlyingOptionsTradesCalcs_2024-10-08_00{n}.csv" for n in (1, 2, 3)]
    assert [file.name for file in made.eod_files] == ["UnderlyingOptionsEODCalcs_2024-10-07.csv"]
    for file in made.trade_files:
        assert header_fault(file.read_bytes().split(b"\n")[0].decode()) is None


def test_the_same_seed_writes_the_same_bytes(made: GeneratedDay, tmp_path: Path) -> None:
    again = generate_day(tmp_path, day=DAY, seed=1, trades=6000, parts=3, bad_rows=6)
    other = generate_day(tmp_path / "other", day=DAY, seed=2, trades=6000, parts=3, bad_rows=6)
    for one, two, three in zip(made.trade_files, again.trade_files, other.trade_files, strict=True):
        assert one.read_bytes() == two.read_bytes() != three.read_bytes()


def test_a_day_has_afternoons_cancels_carets_bursts_and_a_heavy_open(made: GeneratedDay) -> None:
    trades = [row for row in parsed(made.trade_files) if isinstance(row, Trade)]
    hours = [trade.slot // 4 for trade in trades]
    assert min(hours) == 9
    assert max(hours) == 16
    assert hours.count(9) * 2 > 1.5 * hours.count(12)  # the hour of 9 is half an hour long
    assert any(is_cancel(trade) for trade in trades)
    assert any(trade.symbol == "^SPX" for trade in trades)
    assert len({trade.exchanges for trade in trades}) > 8
    assert max(trade.delta for trade in trades) > 0 > min(trade.delta for trade in trades)


def test_planted_blocks_are_listed_by_identity_and_are_large(made: GeneratedDay) -> None:
    truth = json.loads(made.truth_file.read_text())
    trades = {row.trade_id: row for row in parsed(made.trade_files) if isinstance(row, Trade)}
    injected = [trades[item["trade_id"]] for item in truth["unusual"]]
    assert len(injected) == made.blocks > 0
    assert not any(is_cancel(trade) for trade in injected)
    assert min(trade.size for trade in injected) >= LEVELS["standard"].block_contracts


def test_the_end_of_day_file_is_the_vendors(made: GeneratedDay) -> None:
    with made.eod_files[0].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows[0]) == 34
    assert None not in rows[0]
    volumes = [int(row["trade_volume"]) for row in rows]
    assert volumes.count(0) > len(volumes) / 2
    assert all(float(row["delta_1545"]) <= 0 for row in rows if row["option_type"] == "P")
    assert {row["quote_date"] for row in rows} == {"2024-10-07"}


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="easy, standard, hard"):
        generate_day(tmp_path, day=DAY, seed=1, trades=1, level="impossible")


@pytest.mark.parametrize("compress", ["gz", "zip"])
def test_it_compresses(tmp_path: Path, compress: str) -> None:
    made = generate_day(tmp_path, day=DAY, seed=1, trades=50, compress=compress)
    assert made.trade_files[0].name == f"UnderlyingOptionsTradesCalcs_2024-10-08.csv.{compress}"


def test_a_weekend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Saturday"):
        generate_day(tmp_path, day=date(2024, 10, 12), seed=1, trades=1)


def test_a_feed_can_be_resumed_and_repeats_nothing(made: GeneratedDay) -> None:
    feed = live_parts(day=DAY, seed=1, rows=40)
    parts = [next(feed) for _ in range(3)]
    assert next(live_parts(day=DAY, seed=1, rows=40, first=3)) == parts[2]
    assert parts[0].key == "trades/2024-10-08/UnderlyingOptionsTradesCalcs_2024-10-08_live-1-000001.csv"
    rows = [parse_trade(line) for part in parts for line in part.body.decode().splitlines()[1:]]
    fed = {row.trade_id for row in rows if isinstance(row, Trade)}
    assert len(fed) == 120
    assert not fed & {row.trade_id for row in parsed(made.trade_files) if isinstance(row, Trade)}

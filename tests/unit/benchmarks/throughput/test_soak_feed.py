from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from benchmarks.throughput import soak_feed
from benchmarks.throughput.feed import Part, generate_parts, parse_trades
from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import BUCKET
from kintsugi.pipeline.stream import baselines
from kintsugi.sampledata.generator import GeneratedDay
from kintsugi.sampledata.option_chain import previous_trading_day

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

DAYS = soak_feed.SoakDays.from_seed(2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GeneratedDay:
    return soak_feed.generate_informed_day(2, tmp_path_factory.mktemp("soak"), trades=3000)


@pytest.fixture
def s3() -> Iterator[S3Client]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket=BUCKET)
        yield client


def test_a_moved_file_holds_the_same_trades_on_another_day() -> None:
    part = next(generate_parts("soak_killed", 2, rows=30, seconds=10))
    other = soak_feed.move_part(part, DAYS)
    assert other.key != part.key
    assert DAYS.undisturbed.isoformat() in other.key
    for one, two in zip(parse_trades(part), parse_trades(other), strict=True):
        assert one.trade_id != two.trade_id
        assert (one.symbol, one.slot, one.sequence, one.price) == (
            two.symbol,
            two.slot,
            two.sequence,
            two.price,
        )
        assert one.ts - two.ts == 86_400_000
        assert date.fromisoformat(one.trade_date) - date.fromisoformat(two.trade_date) == timedelta(1)
        assert date.fromisoformat(one.expiration) - date.fromisoformat(two.expiration) == timedelta(1)


def test_the_feed_holds_every_planted_trade_once_among_usual_ones_and_is_found_in_its_order(
    made: GeneratedDay,
) -> None:
    some = list(islice(soak_feed.iterate_soak_parts(2, made), 12))
    assert [part.key for part in some] == sorted(part.key for part in some)
    fed = [trade.trade_id for part in some for trade in parse_trades(part)]
    injected = [
        trade.trade_id
        for path in made.trade_files
        for trade in parse_trades(Part(path.name, path.read_bytes(), 0))
    ]
    assert len(made.trade_files) == 3
    assert set(injected) < set(fed)
    assert len(fed) == sum(part.rows for part in some)
    assert len(set(fed)) == len(fed) - made.duplicates
    assert made.blocks > 0


def test_both_days_are_measured_by_the_day_before_them(made: GeneratedDay) -> None:
    files = soak_feed.end_of_day_files(made, DAYS)
    before = [previous_trading_day(day) for day in (DAYS.disturbed, DAYS.undisturbed)]
    assert list(files) == [soak_feed.eod_key(day) for day in before]
    rows = [body.decode().splitlines()[1:] for body in files.values()]
    assert len(rows[0]) == len(rows[1]) > 100
    for one, other in zip(*rows, strict=True):
        first, second = one.split(","), other.split(",")
        for column in (1, 3):
            apart = date.fromisoformat(first[column]) - date.fromisoformat(second[column])
            assert apart == timedelta(DAYS.apart)
        assert [first[0], first[2], *first[4:]] == [second[0], second[2], *second[4:]]


def test_a_baseline_that_nobody_builds_is_named(s3: S3Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_feed, "BASELINE_S", 0.0)
    with pytest.raises(
        StepFailed, match=r"no baseline of eod/UnderlyingOptionsEODCalcs_day\.csv .* look at build_baseline"
    ):
        soak_feed.deliver_baseline(s3, {f"eod/{baselines.EOD_NAME}day.csv": b"x", "eod/other.csv": b"x"})


def test_a_baseline_that_is_built_is_waited_for_until_the_stream_knows_it(
    s3: S3Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"eod/{baselines.EOD_NAME}day.csv"
    etag = s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")["ETag"]
    s3.put_object(Bucket=BUCKET, Key=baselines.manifest_key(key, etag), Body=b"{}")
    slept: list[float] = []
    monkeypatch.setattr("benchmarks.throughput.soak_feed.time.sleep", slept.append)
    soak_feed.deliver_baseline(s3, {key: b"x"})
    assert slept == [baselines.REFRESH_SECONDS]

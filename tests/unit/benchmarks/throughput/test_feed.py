from __future__ import annotations

from datetime import timedelta
from itertools import islice

from benchmarks.throughput import feed
from benchmarks.throughput.delivery import etag_of


def test_the_same_seed_makes_the_same_files_and_another_seed_other_trades() -> None:
    one = list(islice(feed.generate_parts("latency", 5, rows=50, seconds=10), 2))
    again = list(islice(feed.generate_parts("latency", 5, rows=50, seconds=10), 2))
    other = list(islice(feed.generate_parts("latency", 6, rows=50, seconds=10), 2))
    assert one == again
    ids = [{t.trade_id for part in made for t in feed.parse_trades(part)} for made in (one, other)]
    assert not ids[0] & ids[1]
    assert len(ids[0]) == 100


def test_every_section_of_a_run_has_files_of_its_own() -> None:
    days = {section: feed.day_of(section, 3) for section in feed.DAYS}
    assert all(day.weekday() in (1, 2, 3, 4) for day in days.values())
    assert feed.day_of("end_to_end", 4) - feed.day_of("end_to_end", 3) == timedelta(weeks=2)
    stored = [days[name] for name in ("end_to_end", "latency", "growth", "soak", "soak_killed", "rival")]
    assert len(set(stored)) == len(stored)
    steady = {p.key for p in islice(feed.generate_parts("spike", 3, rows=10, seconds=1, first=1_000), 120)}
    assert not steady & {p.key for p in islice(feed.generate_parts("latency", 3, rows=10, seconds=1), 75)}


def test_joined_parts_are_one_file_with_one_header() -> None:
    some = list(islice(feed.generate_parts("growth", 1, rows=20, seconds=10), 3))
    whole = feed.join_parts("trades/x.csv", iter(some), 3)
    assert whole.rows == 60
    assert whole.body.count(b"underlying_symbol") == 1
    assert feed.parse_trades(whole) == [trade for part in some for trade in feed.parse_trades(part)]


def test_a_message_is_keyed_by_its_symbol_and_begins_with_the_identity() -> None:
    part = next(feed.generate_parts("growth", 1, rows=5, seconds=10))
    for (key, value), trade in zip(feed.encode_messages(part), feed.parse_trades(part), strict=True):
        assert key == trade.symbol.encode()
        assert value.startswith(f'{{"trade_id":"{trade.trade_id}"'.encode())


def test_the_etag_is_the_md5_in_quotes() -> None:
    assert etag_of(b"") == '"d41d8cd98f00b204e9800998ecf8427e"'

"""New files are noticed, on a real S3 API and a real ledger, also where the quick looks don't look."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from kintsugi.core.data_source import own_source
from kintsugi.core.settings import BUCKET
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState
from kintsugi.pipeline.object_listing import (
    NAME,
    PAUSE_FACTOR,
    PendingFileScanner,
    list_own_trade_files,
    list_waiting_files,
)
from tests.integration import servers
from tests.integration.pipeline import s3_client
from tests.integration.servers import Server

NET = "127.31.95"
OLD, NEW = f"trades/2024-10-07/{NAME}", f"trades/2024-10-08/{NAME}"


class Place:
    """A bucket and a ledger; each look at ``lookout``'s clock is a second later."""

    def __init__(self, s3: Server, postgres: Server) -> None:
        self.s3 = s3_client(s3.extra["url"])
        self.s3.create_bucket(Bucket=BUCKET)
        self.ledger = IngestLedger(postgres.extra["dsn"])
        self.lookout = PendingFileScanner((own_source(self.s3),), self.ledger, clock=count().__next__)

    def put(self, *keys: str, body: bytes = b"a") -> None:
        for key in keys:
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def take_in(self, key: str) -> None:
        (item,) = (item for item in list_own_trade_files(self.s3) if item.key == key)
        with self.ledger.claim(item.key, item.etag, item.size) as claim:
            assert claim is not None
            claim.finish(claim.entry.tally, FileState.DONE, None)

    def seen(self) -> list[str]:
        return [item.key for item in self.lookout.scan()]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("arrivals")
    started: list[Server] = []
    try:
        started.append(s3 := servers.s3(folder / "s3", f"{NET}.1"))
        started.append(postgres := servers.postgres(folder / "postgres", f"{NET}.1"))
        yield Place(s3, postgres)
    finally:
        servers.stop_all(started)


def test_what_is_new_is_seen_next_or_at_the_next_whole_look(place: Place) -> None:
    place.put(f"{OLD}1.csv", f"{NEW}2.csv", f"{NEW}4.csv", "trades/notes.txt")
    assert place.seen() == [f"{OLD}1.csv", f"{NEW}2.csv", f"{NEW}4.csv"]
    for key in (f"{OLD}1.csv", f"{NEW}4.csv"):
        place.take_in(key)
    assert place.seen() == [f"{NEW}2.csv"], (
        "a finished file is forgotten, one that another has claimed is not"
    )
    place.take_in(f"{NEW}2.csv")
    assert place.seen() == []

    place.put(f"{NEW}5.csv", f"{OLD}9.csv")
    assert place.seen() == [f"{OLD}9.csv", f"{NEW}5.csv"], "a feed's next file is seen at the next look"
    for key in (f"{OLD}9.csv", f"{NEW}5.csv"):
        place.take_in(key)

    place.put(f"{NEW}3.csv", "trades/2024-10-01/" + NAME + "1.csv")
    place.put(f"{NEW}4.csv", body=b"other content")
    elsewhere = ["trades/2024-10-01/" + NAME + "1.csv", f"{NEW}3.csv", f"{NEW}4.csv"]
    looks = 1
    while (seen := place.seen()) == []:
        looks += 1
    assert seen == elsewhere == [item.key for item in list_waiting_files(place.s3, place.ledger)]
    assert looks <= PAUSE_FACTOR


def test_a_bucket_without_files_is_looked_at(place: Place) -> None:
    assert place.seen() == []
    place.put(f"{OLD}1.csv")
    while (seen := place.seen()) == []:
        pass
    assert seen == [f"{OLD}1.csv"]

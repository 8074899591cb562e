"""Each form in which a file may be delivered, for trades and for end of day: what is taken of it."""

from __future__ import annotations

import bz2
import lzma
import tracemalloc
import zipfile

import pytest

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest import decompression, validation
from kintsugi.pipeline.ingest.byte_sources import BytesSource
from kintsugi.pipeline.ingest.validation import FileKind, FileReport
from kintsugi.pipeline.row_parser import HEAD_COLUMNS
from tests.unit.pipeline.ingest.variants import (
    BODY,
    EOD,
    EOD_BODY,
    EOD_ROWS,
    HEADER,
    ROWS,
    TRADES,
    csv,
    encrypted,
    gz,
    tarred,
    with_method,
    zipped,
)


def report(body: bytes, name: str = TRADES) -> FileReport:
    """What an ingest would do; raises InputError for an unusable file, and nothing else may be raised."""
    found = FileReport(name)
    validation._fill_report(BytesSource(body, name), found)
    assert found.read == found.accepted + sum(found.rejected.values())
    return found


def quoted(line: bytes) -> bytes:
    return b",".join(b'"' + cell + b'"' for cell in line.split(b","))


WHOLE = {
    "plain": BODY, "no-last-end": BODY[:-1], "crlf": csv(ROWS, b"\r\n"), "cr": csv(ROWS, b"\r"),
    "cr-cr-lf": csv(ROWS, b"\r\r\n"), "lf-then-cr": csv(ROWS[:20]) + b"\r".join(ROWS[20:]),
    "bom": b"\xef\xbb\xbf" + BODY, "blank-lines": csv(ROWS, b"\n\n") + b"\n\n \t\n", "ctrl-z": BODY + b"\x1a",
    "zero-padding": BODY + bytes(200_000), "zeros-and-line-ends": BODY + bytes(999) + b"\n" + bytes(999) + b"\n",
    "no-header": b"\n".join(ROWS), "header-again": csv([*ROWS[:9], HEADER, *ROWS[9:]]),
    "upper-case": csv(ROWS, header=HEADER.upper()), "spaces-in-names": csv(ROWS, header=HEADER.replace(b"_", b" ")),
    "spaces": csv([b" " + row.replace(b",", b" , ") for row in ROWS], header=HEADER.replace(b",", b", ")),
    "quoted": csv([quoted(row) for row in ROWS], header=quoted(HEADER)),
    "quoted-after-spaces": csv([b" " + quoted(row).replace(b",", b" , ") for row in ROWS]),
    "bad-bytes-in-an-unused-column": csv([row + b",\xe9\xff" for row in ROWS]),
    "gz": gz(BODY), "gz-members": gz(BODY[:999]) + gz(BODY[999:]), "gz-gz": gz(gz(BODY)),
    "gz-zeros": gz(BODY) + bytes(65536), "gz-one-zero": gz(BODY) + b"\0", "gz-line-end": gz(BODY) + b"\r\n",
    "gz-zeros-between": gz(BODY[:999]) + bytes(512) + gz(BODY[999:]) + bytes(99_999),
    "zip": zipped({TRADES: BODY}), "zip-stored": zipped({TRADES: BODY}, zipfile.ZIP_STORED),
    "zip-bzip2": zipped({TRADES: BODY}, zipfile.ZIP_BZIP2), "zip-lzma": zipped({TRADES: BODY}, zipfile.ZIP_LZMA),
    "zip-folder": zipped({"day/": b"", f"day/{TRADES}": BODY, "day/empty.csv": b""}),
    "zip-gz": zipped({TRADES + ".gz": gz(BODY)}), "zip-without-suffix": zipped({"data": BODY}),
    "zip-several": zipped(
        {"1.csv": csv(ROWS[:9])[:-1], "2.csv": b"\n".join(ROWS[9:30]), "3.CSV": csv(ROWS[30:], b"\r")}
    ),
    "zip-macos": zipped({"__MACOSX/._a.csv": b"\0\5\x16\7", TRADES: BODY, ".DS_Store": b"\0", "._b.csv": b"x"}),
    "zip-readme": zipped({"readme.pdf": b"%PDF-", TRADES: BODY, "LICENSE": b"all yours"}),
    "zip-both-products": zipped({EOD: EOD_BODY, TRADES: BODY}),
}  # fmt: skip


@pytest.mark.parametrize("form", WHOLE)
def test_every_row_of_a_whole_file_is_taken(form: str) -> None:
    found = report(WHOLE[form])
    assert (found.accepted, found.rejected) == (40, {})


EOD_WHOLE = {
    "plain": EOD_BODY, "crlf": EOD_BODY.replace(b"\n", b"\r\n"), "cr": EOD_BODY.replace(b"\n", b"\r"),
    "bom": b"\xef\xbb\xbf" + EOD_BODY, "gz": gz(EOD_BODY), "zip": zipped({EOD: EOD_BODY}),
    "zip-macos": zipped({f"__MACOSX/._{EOD}": b"\0", EOD: EOD_BODY}), "gz-zeros": gz(EOD_BODY) + bytes(65536),
    "quoted": b"\n".join(quoted(line) for line in EOD_BODY.splitlines()),
    "upper-case": EOD_BODY.replace(b"\n", b"\n\n", 1).replace(b"underlying_symbol", b"Underlying Symbol"),
    "other-order": b"\n".join(b",".join(line.split(b",")[::-1]) for line in EOD_BODY.splitlines()),
    "rubbish-in-unused-columns": EOD_BODY.replace(b",0.01,-0.1,0.1,0.1,", b",x,,nan,\xe9,"),
}  # fmt: skip


@pytest.mark.parametrize("form", EOD_WHOLE)
def test_every_row_of_a_whole_end_of_day_file_is_taken(form: str) -> None:
    found = report(EOD_WHOLE[form], EOD)
    assert (found.kind, found.accepted, found.rejected) == (FileKind.EOD, 40, {})


@pytest.mark.parametrize("form", ["zip-macos", "zip-readme", "zip-both-products"])
def test_members_that_are_no_data_are_named_and_not_rejected(form: str) -> None:
    (note,) = report(WHOLE[form]).notes
    assert any(name in note for name in (".DS_Store", "readme.pdf", EOD))
    assert TRADES not in note.replace("._" + TRADES, "")


IN_PART = {
    "gz-garbage": (gz(BODY[:-1]) + b"garbage", 40, {"corrupt": 1}),
    "gz-zeros-garbage": (gz(BODY) + bytes(99) + b"\xff\xff", 40, {"corrupt": 1}),
    "gz-broken-member": (gz(BODY[:-1]) + gz(BODY)[:10] + b"\xff" * 99, 40, {"corrupt": 1}),
    "gz-truncated": (gz(BODY)[:-9], 40, {"truncated": 1}),
    "gz-checksum": (gz(BODY)[:-8] + b"\xff" * 8, 40, {"corrupt": 1}),
    "zip-stored-checksum": (zipped({TRADES: BODY}, 0).replace(b",40,AAPL", b",40,AAPM"), 40, {"corrupt": 1}),
    "zip-no-trades-last": (zipped({"1.csv": csv(ROWS[:30]), "2.csv": b"no trades here"}), 30, {"header": 1}),
    "zip-no-trades-first": (zipped({"1.csv": b"a,b\n1,2\n", "2.csv": BODY}), 40, {"header": 1}),
    "zip-tar-member": (zipped({"1.csv": BODY, "2.csv": tarred(BODY)}), 40, {"unsupported": 1}),
    "zip-zip-member": (zipped({"1.csv": BODY, "2.csv": zipped({TRADES: BODY})}), 40, {"unsupported": 1}),
    "huge-line": (csv([*ROWS[:20], b"9" * 1_000_000, *ROWS[20:]]), 40, {"too-long": 1}),
    "huge-line-last": (BODY + b"9" * 300_000, 40, {"too-long": 1}),
    "huge-line-first": (b"9" * 300_000 + b"\n" + BODY, 40, {"too-long": 1}),
    "nul-in-a-row": (BODY.replace(b"AAPL,2018", b"AA\0PL,2018", 1), 39, {"symbol": 1}),
    "latin-1": (BODY.replace(b"AAPL,2018", b"AAPL\xe9,2018", 1), 39, {"encoding": 1}),
    "other-header-later": (BODY + HEADER.replace(b"strike", b"price") + b"\n" + BODY, 40, {"header": 1}),
    "commas-only": (BODY + b",,,,,,,,,,,,,,,,,,\n", 40, {"symbol": 1}),
    "cut-in-a-row": (BODY[: BODY.rindex(b",P,")], 39, {"columns": 1}),
    "arabic-digits": (BODY.replace(b",110.000,", ",\u0661\u0661\u0660,".encode(), 1), 39, {"number": 1}),
    "infinite": (BODY.replace(b",110.000,", b",inf,", 1), 39, {"number": 1}),
    "negative": (BODY.replace(b",110.000,", b",-110,", 1), 39, {"range": 1}),
    "exponent": (BODY.replace(b",110.000,", b",1.1e2,", 1), 40, {}),
}  # fmt: skip


@pytest.mark.parametrize("form", IN_PART)
def test_what_is_good_of_a_file_is_taken_and_the_rest_has_a_reason(form: str) -> None:
    body, accepted, rejected = IN_PART[form]
    found = report(body)
    assert (found.accepted, found.rejected) == (accepted, rejected)


MOVED = ",".join([HEAD_COLUMNS[1], HEAD_COLUMNS[0], *HEAD_COLUMNS[2:]]).encode()
REFUSED = {
    "empty": b"", "blank": b"\n\n \n", "zeros": bytes(300_000), "rubbish": bytes(range(256)) * 40,
    "other-csv": b"hello,world\n1,2\n", "html": b"<html><body>404</body></html>",
    "renamed": csv(ROWS, header=HEADER.replace(b"root", b"stem")), "moved": csv(ROWS, header=MOVED),
    "semicolons": BODY.replace(b",", b";"), "tabs": BODY.replace(b",", b"\t"),
    "utf-16": BODY.decode().encode("utf-16"), "utf-16-le": BODY.decode().encode("utf-16-le"),
    "end-of-day": EOD_BODY, "tar": tarred(BODY), "tar-gz": gz(tarred(BODY)), "bz2": bz2.compress(BODY),
    "xz": lzma.compress(BODY), "zstd": b"\x28\xb5\x2f\xfd" + bytes(99), "7z": b"7z\xbc\xaf\x27\x1c" + bytes(99),
    "gz-magic": b"\x1f\x8b", "gz-rubbish": b"\x1f\x8b" + b"\xff" * 99, "gz-of-nothing": gz(b""),
    "gz-of-zip": gz(zipped({TRADES: BODY})), "gz-five-times": gz(gz(gz(gz(gz(BODY))))),
    "zip-magic": b"PK\x03\x04", "zip-of-nothing": zipped({}), "zip-of-folders": zipped({"a/": b""}),
    "zip-of-empty": zipped({TRADES: b""}), "zip-truncated": zipped({TRADES: BODY})[:-30],
    "zip-encrypted": encrypted(zipped({TRADES: BODY})),
    "zip-deflate64": with_method(zipped({TRADES: BODY}), 9), "zip-zstd": with_method(zipped({TRADES: BODY}), 93),
    "zip-unknown-method": with_method(zipped({TRADES: BODY}), 77),
    "zip-not-bzip2": with_method(zipped({TRADES: BODY}), 12), "zip-not-lzma": with_method(zipped({TRADES: BODY}), 14),
    "zip-name-no-utf-8": zipped({TRADES.replace("_", "\u00e9"): BODY}).replace("\u00e9".encode(), b"\xff\xfe"),
    "zip-only-macos": zipped({"__MACOSX/._a.csv": b"\0"}),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_a_file_without_a_usable_row_is_one_error_that_names_it(form: str) -> None:
    with pytest.raises(InputError) as caught:
        report(REFUSED[form])
    assert TRADES in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]
)
def test_a_member_with_one_wrong_byte_fails_at_that_byte(method: int) -> None:
    """Wherever it is in the member's data."""
    whole = zipped({TRADES: BODY}, method)
    start, end = 30 + len(TRADES), whole.index(b"PK\x01\x02")
    for at in range(start, end, max(1, (end - start) // 60)):
        data = bytearray(whole)
        data[at] ^= 0x55
        try:
            found = report(bytes(data))
        except InputError:
            continue
        # A byte that says nothing of the data (LZMA's version, say) may be wrong: the checksum is right then.
        assert found.rejected or found.accepted == 40


def test_only_a_header_is_no_row_and_no_error() -> None:
    assert (report(HEADER).read, report(HEADER + b"\r\n").read) == (0, 0)


@pytest.mark.parametrize(
    ("name", "body", "kind"),
    [
        ("x.csv", BODY, FileKind.TRADES), ("x.csv", b"\n".join(ROWS), FileKind.TRADES), ("x", EOD_BODY, FileKind.EOD),
        ("x.zip", zipped({"a.csv": EOD_BODY}), FileKind.EOD), ("x.gz", gz(b"\n" + BODY), FileKind.TRADES),
        ("UnderlyingOptionsTrades_2018-01-08.csv", BODY, FileKind.TRADES),
    ],
)  # fmt: skip
def test_a_name_that_says_nothing_leaves_it_to_the_content(name: str, body: bytes, kind: FileKind) -> None:
    found = report(body, name)
    assert (found.kind, found.accepted, found.rejected) == (kind, 40, {})


@pytest.mark.parametrize(
    ("cell", "text", "reason"),
    [
        (20, "", "number"), (20, "1.0001", "range"), (20, "-1.0001", "range"), (20, "nan", "number"),
        (1, "10/07/2024", "date"), (1, "2118-01-08", "date"), (1, "", "date"), (3, "9999-12-31", "date"),
        (3, "2018-01-07", "expired"), (3, "2018-02-30", "date"), (5, "X", "option-type"), (5, "", "option-type"),
        (0, "", "symbol"), (0, "a b", "symbol"), (0, "AAPL\udce9", "symbol"), (10, "", "number"), (10, "-1", "range"),
        (10, "1.5", "number"), (19, "", "number"), (19, "-0.1", "range"), (19, "inf", "number"),
        (33, ",extra", "columns"), (7, '"', "quoting"),
    ],
)  # fmt: skip
def test_a_bad_end_of_day_row_fails_alone(cell: int, text: str, reason: str) -> None:
    cells = EOD_ROWS[7].decode().split(",")
    cells[cell] = text
    bad = ",".join(cells).encode("utf-8", "surrogateescape")
    found = report(EOD_BODY.replace(EOD_ROWS[7], bad), EOD)
    assert (found.accepted, found.rejected) == (39, {reason: 1})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_bomb_in_any_method_ends_in_bounded_memory(method: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "MAX_EXPANSION_FREE", 4 << 20)
    monkeypatch.setattr(decompression, "MAX_EXPANSION", 20)
    bomb = zipped({TRADES: BODY + b"7" * (100 << 20)}, method)
    tracemalloc.start()
    found = report(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.accepted == 40
    assert found.rejected["expansion"] == 1
    assert peak < 16 << 20

"""Which objects are taken, by name: the rule of the sensor, the ingest and everybody else."""

from __future__ import annotations

import pytest

from kintsugi.core.file_names import ObjectKind, kind_of, period_of

TRADES = "UnderlyingOptionsTradesCalcs_2024-10-08"
EOD = "UnderlyingOptionsEODCalcs_2024-10-08"


@pytest.mark.parametrize("folder", ["", "trades/", "trades/2024-10-08/", "vendor/order_1/item 2/"])
@pytest.mark.parametrize(
    "ending", [".csv", ".csv.gz", ".csv.zip", ".zip", ".ZIP", ".CSV", ".txt", "", "_003.csv"]
)
def test_a_file_is_taken_wherever_it_lies_and_whatever_its_ending(folder: str, ending: str) -> None:
    assert kind_of(f"{folder}{TRADES}{ending}") is ObjectKind.TRADES
    assert kind_of(f"{folder}{EOD}{ending}") is ObjectKind.EOD


@pytest.mark.parametrize(
    "name",
    [
        f"{TRADES}.csv.md5", f"{TRADES}.csv.gz.sha256", f"{TRADES}.csv.part", f"{TRADES}.zip.filepart",
        f"{EOD}.zip.md5",
        f"{TRADES}.csv.tmp", f"{TRADES}.csv.crdownload", f".{TRADES}.csv.Xy12Ab", f"~{TRADES}.csv", f"{TRADES}.csv~",
        f"{TRADES}.csv.asc", f"{TRADES}.csv.done", f"copy of {TRADES}.csv", f"{TRADES}..csv",
    ],
)  # fmt: skip
def test_what_lies_beside_a_file_is_not_taken_for_one(name: str) -> None:
    assert kind_of(f"trades/2024-10-08/{name}") is ObjectKind.COMPANION


@pytest.mark.parametrize(
    "name",
    [
        "UnderlyingOptionsTrades_2024-10-08.csv", "UnderlyingOptionsEODQuotes_2024-10-08.zip",
        "UnderlyingOptionsIntervals_60min_calcs_oi_level2_2024-10-08.csv", "Cboe_OpenClose_2024-10.zip",
    ],
)  # fmt: skip
def test_another_product_of_the_vendor_is_told_from_what_is_foreign(name: str) -> None:
    assert kind_of(f"order/{name}") is ObjectKind.OTHER_PRODUCT
    assert kind_of("order/readme.txt") is kind_of("manifests/ab12.json") is ObjectKind.FOREIGN


@pytest.mark.parametrize(
    ("name", "period"),
    [
        (f"{TRADES}.csv", "2024-10-08"), (f"{TRADES}_001.csv.gz", "2024-10-08"), (f"{EOD}.zip", "2024-10-08"),
        ("UnderlyingOptionsTradesCalcs_2024-10.csv", "2024-10"), ("UnderlyingOptionsTradesCalcs_2024-10", "2024-10"),
        ("UnderlyingOptionsTradesCalcs_1.csv", ""), ("UnderlyingOptionsTradesCalcs_2024-100.csv", ""),
    ],
)  # fmt: skip
def test_the_period_of_a_file_is_in_its_name(name: str, period: str) -> None:
    assert period_of(f"trades/{name}") == period

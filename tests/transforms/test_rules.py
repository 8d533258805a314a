"""Good rows and the sentences for the others, from files written by hand; pandas judges generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.schema import Source
from transforms import explained, parse, rules
from transforms.explained import FITS
from transforms.rules import REASONS

SOURCE = Source.model_validate(
    {
        "files": "*.csv",
        "nulls": ["NA"],
        "columns": {"id": "int!", "place": "string!", "share": "double", "at": "timestamp"},
        "derive": {"whole": "CAST(share AS INT)", "inverse": "100 DIV id"},
        "rules": {"near": "place IN ('a', 'b')", "positive": "inverse > 0"},
    }
)
HEADER = ("id", "place", "share", "at")
ZONE = "Europe/Paris"


def file(folder: Path, rows: list[str]) -> tuple[parse.Batch, list[str]]:
    path = folder / "rows.csv"
    path.write_text("\n".join([",".join(HEADER), *rows]) + "\n")
    return parse.match(SOURCE, ZONE, HEADER)[0], [str(path)]


def reasons(spark: SparkSession, folder: Path, rows: list[str]) -> list[list[str]]:
    """Reasons of each row, in the order of the file."""
    batch, urls = file(folder, rows)
    found = (
        rules.explain(explained.rows(spark, batch, urls), SOURCE, ZONE).select("_raw", REASONS).coalesce(1).collect()
    )
    return [row[REASONS] for row in found]


def test_every_reason_of_a_row_is_told(spark: SparkSession, tmp_path: Path) -> None:
    near, positive = "rule near: place IN ('a', 'b') is false or null", "rule positive: inverse > 0 is false or null"
    assert reasons(spark, tmp_path, ["1,a,1.5,", "NA,NA,,", "0,a,NaN,", "-3,c,1e400,", "x,b,,", "2,b,3e9,", "3,a"]) == [
        [],
        ["id: required but null", "place: required but null", near, positive],
        [
            "share: 'NaN' is not a finite number",
            "whole: CAST(share AS INT) fails on this row",
            "inverse: 100 DIV id fails on this row",
            positive,
        ],
        ["share: 'Infinity' is not a finite number", "whole: CAST(share AS INT) fails on this row", near, positive],
        ["id: 'x' is not an int", positive],
        ["whole: CAST(share AS INT) fails on this row"],
        ["malformed: the line does not have 4 field(s)"],
    ]


def test_an_instant_after_a_clock_change_is_doubtful_and_good(spark: SparkSession, tmp_path: Path) -> None:
    """The quick path leaves it to the exact one, which sees from the text that it exists."""
    batch, urls = file(tmp_path, ["1,a,,2024-03-31T01:30:00Z", "2,a,,2024-03-31 02:30:00", "3,a,,2024-03-31 12:00:00"])
    clean = rules.clean(parse.plain(spark, batch, urls), SOURCE, ZONE)
    assert [row["id"] for row in clean.collect()] == [3]
    exact = rules.explain(explained.rows(spark, batch, urls), SOURCE, ZONE).select("id", REASONS, FITS)
    told = "at: '2024-03-31 02:30:00' does not exist in Europe/Paris: a clock change skips it"
    assert sorted(tuple(row) for row in exact.collect()) == [(1, [], False), (2, [told], False), (3, [], True)]


def test_rows_are_left_out_without_parsing_them_again(spark: SparkSession, tmp_path: Path) -> None:
    """What the quick path does not keep; the plan has as many parsers as that of all rows."""
    batch, urls = file(tmp_path, ["1,a,,2024-03-31T01:30:00Z", "2,c,,", "3,a,,2024-03-31 12:00:00"])
    explained_rows = rules.explain(explained.rows(spark, batch, urls), SOURCE, ZONE)

    found = rules.left_out(explained_rows)

    assert found.columns == explained_rows.columns
    assert sorted(row["id"] for row in found.collect()) == [1, 2]
    parsers = [
        frame._jdf.queryExecution().optimizedPlan().toString().count("from_csv") for frame in (explained_rows, found)
    ]
    assert parsers[0] > 0
    assert parsers[1] == parsers[0]


def test_quick_and_exact_path_keep_the_same_rows_as_pandas(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = pd.DataFrame(
        {
            "id": rng.choice(["1", "2", "-4", "x", "NA", ""], 500, p=[0.5, 0.3, 0.05, 0.05, 0.05, 0.05]),
            "place": rng.choice(["a", "b", "c", "NA"], 500, p=[0.6, 0.3, 0.05, 0.05]),
            "share": rng.choice(["0.5", "", "NaN", "-1e3"], 500, p=[0.6, 0.2, 0.1, 0.1]),
        }
    )
    number = pd.to_numeric(rows["id"], errors="coerce")
    good = (number > 0) & rows["place"].isin(["a", "b"]) & (rows["share"] != "NaN")
    batch, urls = file(tmp_path, [f"{i},{p},{s}," for i, p, s in rows.itertuples(index=False)])
    # NaN shares would fail in `whole`, where they were not left out before it is computed.
    clean = rules.clean(parse.plain(spark, batch, urls), SOURCE, ZONE)
    exact = rules.explain(explained.rows(spark, batch, urls), SOURCE, ZONE)
    columns = ["id", "place", "share", "whole", "inverse"]
    quick = sorted(map(tuple, clean.select(*columns).collect()), key=repr)
    assert quick == sorted(map(tuple, exact.filter(F.size(REASONS) == 0).select(*columns).collect()), key=repr)
    assert quick == sorted(map(tuple, exact.filter(FITS).select(*columns).collect()), key=repr)
    assert len(quick) == int(good.sum())


def test_equal_reasons_are_counted_without_their_values(spark: SparkSession) -> None:
    told = [
        "id: 'x: 'is not an int' is not an int",
        "at: '2024\n' does not exist in UTC: why",
        "rule near: it's is false or null",
    ]
    frame = spark.createDataFrame([(t,) for t in told], "reason string").coalesce(1)
    assert [row[0] for row in frame.select(rules.kind_of(F.col("reason"))).collect()] == [
        "id: is not an int",
        "at: does not exist in UTC: why",
        "rule near: it's is false or null",
    ]

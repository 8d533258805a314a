"""A small delivery service: a few thousand generated rows that use every kind of table, for tests that run the pipeline often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

PIPELINE = """\
pipeline: parcels
question: Will this parcel be late?
task: binary
timezone: Europe/Paris
sources:
  parcels:
    files: parcels/*.csv
    columns: {parcel: int!, depot: string!, driver: string, weight_kg: double, promised_at: timestamp!, arrived_at: timestamp}
    derive: {late: CAST(arrived_at > promised_at AS DOUBLE)}
    key: [parcel]
    at: promised_at
    known_at: promised_at - INTERVAL 2 DAYS
    outcomes: [{columns: [arrived_at, late], known_at: arrived_at}]
    rules: {light: weight_kg < 1000}
    expect: [{expect_column_mean_to_be_between: {column: weight_kg, min_value: 1, max_value: 100}}]
    expect_table: [{expect_table_row_count_to_be_between: {min_value: 100}}]
  weather:
    files: weather.csv
    columns: {depot: string!, read_at: timestamp!, rain_mm: double}
    key: [depot, read_at]
    at: read_at
  depots: {files: depots.csv, static: true, key: [depot], columns: {depot: string!, docks: int}}
features:
  spine: parcels
  as_of: promised_at - INTERVAL 1 DAY
  label: {name: is_late, value: late}
  columns: {weight_kg: weight_kg, promised_hour: "hour(from_utc_timestamp(promised_at, 'Europe/Paris'))"}
  joins:
    - {source: weather, by: [depot], within: 6 hours, take: [rain_mm]}
    - {source: depots, by: [depot], take: [docks]}
  windows:
    - {of: parcels, by: [depot], over: [2 days, 7 days], take: {depot_late: avg(is_late), depot_parcels: count(is_late)}}
    - {of: parcels, by: [driver], over: [7 days], take: {driver_late: avg(is_late)}}
  numeric: [weight_kg, promised_hour, rain_mm, docks, depot_late_2_days, depot_late_7_days, depot_parcels_2_days, depot_parcels_7_days, driver_late]
  categorical: [depot]
split: {test: {last: 20 days}, folds: {kind: time, count: 2, gap: 1 day}}
train:
  metric: area_under_roc
  candidates:
    logistic: {estimator: logistic_regression, grid: {reg_param: [0.001, 0.1]}}
evaluate: {slices: [depot], bootstrap: 20}
score: {since: 2024-03-15}
"""


def write(raw: Path, rows: int = 4_000) -> None:
    """Raw files of three months; some rows are bad, some come twice, some came late."""
    rng = np.random.default_rng(7)
    begin = pd.Timestamp("2024-01-01", tz="UTC")
    depots, drivers = [f"D{i}" for i in range(5)], [f"driver {i}" for i in range(40)]
    promised = begin + pd.to_timedelta(np.sort(rng.integers(0, 90 * 24, rows)), unit="h")
    depot, driver = rng.integers(0, 5, rows), rng.integers(0, 40, rows)
    chance = 1 / (1 + np.exp(2.2 - 0.6 * depot - 0.05 * driver))
    late = rng.random(rows) < chance
    arrived = promised + pd.to_timedelta(np.where(late, 1, -1) * rng.integers(1, 20, rows), unit="h")
    frame = pd.DataFrame(
        {
            "parcel": np.arange(rows),
            "depot": np.array(depots)[depot],
            "driver": np.array(drivers)[driver],
            "weight_kg": np.round(rng.gamma(2, 5, rows), 2).astype(str),
            "promised_at": promised.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "arrived_at": arrived.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
    frame.loc[rng.random(rows) < 0.03, "arrived_at"] = ""
    frame.loc[rng.random(rows) < 0.002, "weight_kg"] = "heavy"
    frame.loc[rng.random(rows) < 0.002, "weight_kg"] = "2000"
    (raw / "parcels").mkdir(parents=True)
    for month in (1, 2, 3):
        piece = frame[promised.month == month]
        pd.concat([piece, piece.head(5)]).to_csv(raw / "parcels" / f"2024-{month:02d}.csv", index=False)
    hours = pd.date_range(begin - pd.Timedelta(days=2), periods=94 * 8, freq="3h")
    weather = pd.DataFrame(
        [(d, h.strftime("%Y-%m-%dT%H:%M:%SZ")) for d in depots for h in hours], columns=["depot", "read_at"]
    )
    weather["rain_mm"] = np.round(rng.gamma(0.3, 2, len(weather)), 2)
    weather.sample(frac=1, random_state=3).to_csv(raw / "weather.csv", index=False)
    pd.DataFrame({"depot": depots, "docks": [2, 4, 4, 6, 9]}).to_csv(raw / "depots.csv", index=False)


def write_environment(
    folder: Path, name: str, spark: dict[str, str] | None = None, *, raw: str | None = None, lake: str | None = None
) -> Path:
    """An environment file `folder/<name>.yaml` for raw files and a lake, by default `folder/raw` and `folder/<name>`."""
    raw, lake = raw or f"{folder}/raw", lake or f"{folder}/{name}"
    lines = [f"name: test\nraw: {raw}\nlake: {lake}\nmaster: local[2]\ndriver_memory: 2g\nspark:"]
    for setting, value in {"spark.sql.shuffle.partitions": "2", **(spark or {})}.items():
        lines.append(f"  {setting}: '{value}'")
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path

"""No feature, label or fold sees what was not known: generated rows with ties, gaps and clock changes against loops in plain Python.

The oracle shares nothing with the code under test: no Spark, no arrays, one row at a time, straight from the definitions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from ruamel.yaml import YAML

from conf.schema import Pipeline
from transforms import features, labels, spine, split
from transforms.expressions import column_schema, with_derived

Row = dict[str, Any]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

TRIPS = """
pipeline: trips
task: binary
timezone: {zone}
sources:
  trips:
    files: trips.csv
    columns: {{line: string!, number: int!, start: string, end: string, planned_at: timestamp!, delay: double, took: double}}
    derive:
      left_at: planned_at + make_dt_interval(0, 0, 0, delay * 60)
      arrived_at: left_at + make_dt_interval(0, 0, 0, took * 60)
    key: [line, number]
    at: planned_at
    known_at: planned_at - INTERVAL 1 DAY
    outcomes:
      - {{columns: [Delay, left_at], known_at: left_at + INTERVAL 40 MINUTES}}
      - {{columns: [took, arrived_at], known_at: arrived_at}}
  weather:
    files: weather.csv
    columns: {{place: string, read_at: timestamp!, sensor: int!, wind: double, rain: double}}
    key: [place, read_at, sensor]
    at: read_at
    known_at: date_trunc('HOUR', read_at) + INTERVAL 1 HOUR
  places: {{files: places.csv, static: true, key: [place], columns: {{place: string!, zone: int}}}}
  zones: {{files: zones.csv, static: true, key: [zone], columns: {{zone: int!, income: double}}}}
  tickets:
    files: tickets.csv
    columns: {{id: int!, route: string, trip: int, sold_at: timestamp!, price: double}}
    key: [id]
    at: sold_at
features:
  spine: trips
  as_of: planned_at - INTERVAL 90 MINUTES
  label: {{name: is_late, value: CAST(delay + took > 45 AS DOUBLE)}}
  columns: {{local_hour: "hour(from_utc_timestamp(planned_at, '{zone}'))"}}
  joins:
    - {{source: weather, by: {{start: place}}, within: 3 hours, take: [wind, rain]}}
    - {{source: places, by: {{end: place}}, take: [zone]}}
    - {{source: zones, by: [zone], take: [income]}}
  windows:
    - {{of: trips, by: [line], over: [1 hour, 1 day], take: {{left: count(delay), delay_mean: avg(delay), worst: max(delay), latest: last(delay)}}}}
    - {{of: trips, by: {{start: start}}, over: [6 hours], take: {{late_share: avg(is_late), n_known: count(*)}}}}
    - {{of: trips, by: {{start: end}}, over: [2 days], take: {{total: sum(delay + took), spread: stddev(DELAY)}}}}
    - {{of: trips, by: [line], over: [2 days], take: {{timetabled: count(*)}}}}
    - {{of: tickets, by: {{line: route}}, over: [7 days], take: {{sold: count(*), dearest: max(price)}}}}
  children:
    - {{of: tickets, by: {{line: route, number: trip}}, take: {{tickets: count(*), paid: sum(price)}}}}
  numeric: [local_hour, wind, rain, income, left_1_hour, left_1_day, delay_mean_1_hour, delay_mean_1_day, worst_1_hour, worst_1_day,
            latest_1_hour, latest_1_day, late_share, n_known, total, spread, timetabled, sold, dearest, tickets, paid]
  categorical: [start, zone]
split: {{test: {{last: 2 days}}, folds: {{kind: time, count: 3, gap: 2 hours}}}}
train: {{metric: area_under_roc, candidates: {{linear: {{estimator: logistic_regression}}}}}}
"""

MEMBERS = """
pipeline: members
task: regression
timezone: {zone}
sources:
  members:
    files: members.csv
    columns: {{member: int!, joined_on: date!, plan: string}}
    key: [member]
    at: joined_on
  orders:
    files: orders.csv
    columns: {{id: int!, buyer: int, ordered_at: timestamp!, amount: double, paid_at: timestamp, fee: double}}
    key: [id]
    at: ordered_at
    outcomes: [{{columns: [fee, paid_at], known_at: paid_at}}]
features:
  spine: {{entities: members, every: 1 {unit}, from: {start}}}
  label: {{name: fees, of: orders, by: {{member: buyer}}, within: 36 hours, value: "100 * count(*) + coalesce(sum(fee), -1)"}}
  columns: {{days_in: "date_diff(as_of, joined_on)"}}
  windows:
    - {{of: orders, by: {{member: buyer}}, over: [12 hours, 2 days], take: {{n: count(*), spent: sum(amount)}}}}
    - {{of: orders, by: {{member: buyer}}, over: [3 days], take: {{fee: avg(fee)}}}}
  children:
    - {{of: orders, by: {{member: buyer}}, take: {{orders: count(*), largest: max(amount)}}}}
  numeric: [days_in, n_12_hours, n_2_days, spent_12_hours, spent_2_days, fee, orders, largest]
  categorical: [plan]
split: {{test: {{last: 2 days}}, folds: {{kind: time, count: 2}}}}
train: {{metric: rmse, candidates: {{linear: {{estimator: linear_regression}}}}}}
"""


def pipeline_of(text: str) -> Pipeline:
    return Pipeline.model_validate(YAML(typ="safe").load(text))


def frames(
    spark: SparkSession, pipeline: Pipeline, rows: dict[str, list[Row]], partitions: int
) -> dict[str, DataFrame]:
    """Silver frames of raw rows, spread over partitions in the order given."""
    found = {}
    for name, source in pipeline.sources.items():
        schema = column_schema(source)
        values = [tuple(row[column] for column in schema.names) for row in rows[name]]
        cut = spark.sparkContext.parallelize(values, partitions)
        found[name] = with_derived(spark.createDataFrame(cut, schema), source)
    return found


def moments(start: datetime, end: datetime, step: timedelta) -> list[datetime]:
    return [start + step * i for i in range((end - start) // step)]


def maybe(rng: random.Random, value: Any, missing: float = 0.15) -> Any:
    return None if rng.random() < missing else value


def trips_data(seed: int, start: datetime) -> dict[str, list[Row]]:
    """A week around a clock change, on a grid of half an hour so that moments tie, with a day without anything."""
    rng = random.Random(seed)
    grid = [m for m in moments(start, start + 7 * DAY, 30 * MINUTE) if not start + 3 * DAY <= m < start + 4 * DAY]
    trips, tickets = [], []
    for number in range(170):
        trip = {
            "line": rng.choice("AB"),
            "number": number,
            "start": maybe(rng, rng.choice(["x", "y", "z"]), 0.1),
            "end": maybe(rng, rng.choice(["x", "y", "z"]), 0.1),
            "planned_at": rng.choice(grid),
            "delay": maybe(rng, rng.choice([-30.0, 0.0, 30.0, 60.0, round(rng.uniform(-10, 50), 1)])),
            "took": maybe(rng, rng.choice([10.0, 40.0, round(rng.uniform(5, 90), 1)])),
        }
        trips.append(trip)
        for _ in range(rng.randrange(4)):
            sold = trip["planned_at"] - rng.choice([0.5, 1.5, 3, 30]) * HOUR
            tickets.append(
                {
                    "id": len(tickets),
                    "route": trip["line"],
                    "trip": number,
                    "sold_at": sold,
                    "price": maybe(rng, rng.choice([1.1, 2.7, 3.9])),
                }
            )
    weather = []
    for place in ("x", "y", None):
        for moment in rng.sample(grid, 60):
            for sensor in rng.sample(range(3), rng.choice([1, 2])):
                reading = {
                    "wind": maybe(rng, float(rng.randrange(20)), 0.3),
                    "rain": maybe(rng, round(rng.random(), 3), 0.3),
                }
                weather.append({"place": place, "read_at": moment, "sensor": sensor, **reading})
    places = [{"place": "x", "zone": 1}, {"place": "y", "zone": None}]
    zones = [{"zone": 1, "income": 12.5}, {"zone": 2, "income": None}]
    rng.shuffle(trips)
    return {"trips": trips, "weather": weather, "places": places, "zones": zones, "tickets": tickets}


def members_data(seed: int, start: datetime, zone: str) -> dict[str, list[Row]]:
    """Orders around and exactly on local midnights, where the steps of the spine lie."""
    rng = random.Random(seed)
    midnights = [datetime(start.year, start.month, start.day, tzinfo=ZoneInfo(zone)) + DAY * i for i in range(9)]
    members = [
        {"member": i, "joined_on": (start + DAY * rng.randrange(-3, 5)).date(), "plan": maybe(rng, rng.choice("pq"))}
        for i in range(12)
    ]
    orders = []
    for number in range(160):
        moment = rng.choice(midnights).astimezone(UTC) + rng.choice([-12, -1, 0, 0, 1, 7, 12]) * HOUR
        paid = maybe(rng, moment + rng.choice([0, 1, 12, 24]) * HOUR)
        amounts = {"amount": maybe(rng, round(rng.uniform(1, 99), 2)), "fee": maybe(rng, round(rng.uniform(0, 9), 2))}
        orders.append(
            {
                "id": number,
                "buyer": maybe(rng, rng.randrange(14), 0.05),
                "ordered_at": moment,
                "paid_at": paid,
                **amounts,
            }
        )
    return {"members": members, "orders": orders}


def latest(*instants: datetime | None) -> datetime | None:
    """Null as soon as one is null: nobody can say that it has come to pass."""
    return None if None in instants else max(i for i in instants if i is not None)


def plus(moment: datetime | None, minutes: float | None) -> datetime | None:
    return None if moment is None or minutes is None else moment + timedelta(microseconds=round(minutes * 60e6))


def before(
    rows: Iterable[Row], known: Callable[[Row], datetime | None], as_of: datetime, width: timedelta | None, **key: Any
) -> list[Row]:
    """Rows with equal key and `as_of - width <= known < as_of`; a null matches nothing."""
    found = []
    for row in rows:
        moment = known(row)
        if moment is None or any(value is None or row[name] != value for name, value in key.items()):
            continue
        if moment < as_of and (width is None or moment >= as_of - width):
            found.append(row)
    return found


def of(rows: Iterable[Row], value: Callable[[Row], float | None]) -> list[float]:
    return [v for v in map(value, rows) if v is not None]


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def total(values: Sequence[float]) -> float | None:
    return math.fsum(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def last(rows: Iterable[Row], known: Callable[[Row], Any], value: Callable[[Row], float | None]) -> float | None:
    """The latest value that is there; of those known at the same instant the largest."""
    return max(((known(row), v) for row in rows if (v := value(row)) is not None), default=(None, None))[1]


def delay_known(trip: Row) -> datetime | None:
    return plus(trip["planned_at"], None if trip["delay"] is None else trip["delay"] + 40)


def arrived(trip: Row) -> datetime | None:
    """Now before the delay is known, now after it."""
    return plus(plus(trip["planned_at"], trip["delay"]), trip["took"])


def trips_oracle(data: dict[str, list[Row]], zone: str, run_date: date) -> list[Row]:
    trips = data["trips"]

    def both_known(trip: Row) -> datetime | None:
        return latest(delay_known(trip), arrived(trip))

    def both(trip: Row) -> float | None:
        return None if None in (trip["delay"], trip["took"]) else trip["delay"] + trip["took"]

    def late(trip: Row) -> float | None:
        found = both(trip)
        return None if found is None else float(found > 45)

    def delay(trip: Row) -> float | None:
        found: float | None = trip["delay"]
        return found

    def price(ticket: Row) -> float | None:
        found: float | None = ticket["price"]
        return found

    def reading_known(reading: Row) -> datetime:
        whole: datetime = reading["read_at"].replace(minute=0)
        return whole + HOUR

    rows = []
    for trip in trips:
        as_of = trip["planned_at"] - 90 * MINUTE
        row: Row = {"line": trip["line"], "number": trip["number"], "as_of": as_of, "start": trip["start"]}
        row["local_hour"] = float(trip["planned_at"].astimezone(ZoneInfo(zone)).hour)
        readings = before(data["weather"], reading_known, as_of, 3 * HOUR, place=trip["start"])
        reading = max(
            readings, key=lambda r: (reading_known(r), r["read_at"], r["sensor"]), default={"wind": None, "rain": None}
        )
        row |= {"wind": reading["wind"], "rain": reading["rain"]}
        zone_of = {place["place"]: place["zone"] for place in data["places"]}.get(trip["end"])
        row["zone"] = None if zone_of is None else str(zone_of)
        row["income"] = {z["zone"]: z["income"] for z in data["zones"]}.get(zone_of)
        for width, name in ((HOUR, "1_hour"), (DAY, "1_day")):
            seen = before(trips, delay_known, as_of, width, line=trip["line"])
            delays = of(seen, delay)
            row |= {f"left_{name}": float(len(delays)), f"delay_mean_{name}": mean(delays)}
            row |= {f"worst_{name}": max(delays, default=None), f"latest_{name}": last(seen, delay_known, delay)}
        seen = before(trips, both_known, as_of, 6 * HOUR, start=trip["start"])
        row |= {"late_share": mean(of(seen, late)), "n_known": float(len(seen))}
        seen = before(trips, both_known, as_of, 2 * DAY, end=trip["start"])
        row |= {"total": total(of(seen, both)), "spread": spread(of(seen, delay))}
        row["timetabled"] = float(
            len(before(trips, lambda t: t["planned_at"] - DAY, as_of, 2 * DAY, line=trip["line"]))
        )
        sold = before(data["tickets"], lambda t: t["sold_at"], as_of, 7 * DAY, route=trip["line"])
        row |= {"sold": float(len(sold)), "dearest": max(of(sold, price), default=None)}
        own = before(data["tickets"], lambda t: t["sold_at"], as_of, None, route=trip["line"], trip=trip["number"])
        row |= {"tickets": float(len(own)), "paid": total(of(own, price))}
        known = both_known(trip)
        in_time = known is not None and known < start_of(run_date, zone)
        row |= {
            "label": late(trip) if in_time else None,
            "label_known_at": known if in_time and late(trip) is not None else None,
        }
        rows.append(row)
    return rows


def start_of(day: date, zone: str) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def members_oracle(data: dict[str, list[Row]], zone: str, first: date, hours: int | None, run_date: date) -> list[Row]:
    """`hours`: steps of so much elapsed time; None: local midnights."""
    end = start_of(run_date, zone)
    if hours is None:
        steps = [start_of(first + DAY * i, zone) for i in range((run_date - first).days + 1)]
    else:
        steps = [m for m in moments(start_of(first, zone), end + HOUR, hours * HOUR) if m <= end]
    rows = []
    for member in data["members"]:
        joined = start_of(member["joined_on"], zone)
        for as_of in (step for step in steps if step >= joined):
            own = [order for order in data["orders"] if order["buyer"] == member["member"]]

            def ordered(order: Row) -> Any:
                return order["ordered_at"]

            row: Row = {"member": member["member"], "as_of": as_of, "plan": member["plan"]}
            row["days_in"] = float((as_of.date() - member["joined_on"]).days)
            for width, name in ((12 * HOUR, "12_hours"), (2 * DAY, "2_days")):
                seen = before(own, ordered, as_of, width)
                row |= {f"n_{name}": float(len(seen)), f"spent_{name}": total(of(seen, lambda o: o["amount"]))}
            row["fee"] = mean(of(before(own, lambda o: o["paid_at"], as_of, 3 * DAY), lambda o: o["fee"]))
            seen = before(own, ordered, as_of, None)
            row |= {"orders": float(len(seen)), "largest": max(of(seen, lambda o: o["amount"]), default=None)}
            known = as_of + 36 * HOUR
            coming = [o for o in own if o["paid_at"] is not None and as_of <= o["paid_at"] < known]
            fees = total(of(coming, lambda o: o["fee"]))
            value = 100.0 * len(coming) + (-1.0 if fees is None else fees)
            row |= {"label": value if known < end else None, "label_known_at": known if known < end else None}
            rows.append(row)
    return rows


def found_rows(sources: dict[str, DataFrame], pipeline: Pipeline, run_date: date) -> pd.DataFrame:
    """Features and labels of the code under test, in one table."""
    made = features.frame(sources, pipeline, run_date=run_date).toPandas()
    rows = spine.rows(sources, pipeline, run_date=run_date)
    labelled = labels.labelled(rows, sources, pipeline, run_date=run_date).toPandas()
    key = [name for name in labelled if name not in ("label", "label_known_at")]
    assert len(made) == len(labelled)
    return made.merge(labelled, on=key, validate="one_to_one")


def same(found: pd.DataFrame, expected: list[Row], key: list[str]) -> None:
    wanted = pd.DataFrame(expected)
    for column in ("as_of", "label_known_at"):
        wanted[column] = pd.to_datetime(wanted[column], utc=True).dt.tz_localize(None)
    assert sorted(found.columns) == sorted(wanted.columns)
    left, right = (frame[sorted(wanted.columns)].sort_values(key).reset_index(drop=True) for frame in (found, wanted))
    pd.testing.assert_frame_equal(left, right, check_dtype=False, rtol=1e-12, atol=1e-12)


CLOCK_CHANGES = [
    ("UTC", datetime(2012, 2, 26, tzinfo=UTC)),
    ("America/New_York", datetime(2013, 3, 7, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2013, 4, 3, tzinfo=UTC)),  # half an hour back on 7 April
    ("America/Sao_Paulo", datetime(2013, 10, 16, tzinfo=UTC)),  # 20 October has no midnight
]


@pytest.mark.parametrize(("zone", "start"), CLOCK_CHANGES[:2])
def test_every_feature_and_label_of_events_equals_the_oracle(spark: SparkSession, zone: str, start: datetime) -> None:
    """Windows with every kind of gate, as-of join, two-hop lookup and children over a week with a clock change."""
    data = trips_data(seed=start.month, start=start)
    pipeline = pipeline_of(TRIPS.format(zone=zone))
    run_date = (start + 6 * DAY).date()
    found = found_rows(frames(spark, pipeline, data, partitions=3), pipeline, run_date)
    expected = trips_oracle(data, zone, run_date)
    assert sum(row["late_share"] is not None for row in expected) > 30
    assert 40 < sum(row["label"] is not None for row in expected) < 150
    same(found, expected, key=["line", "number"])


@pytest.mark.parametrize(
    ("zone", "start", "unit"), [(*CLOCK_CHANGES[1], "day"), (*CLOCK_CHANGES[2], "hour"), (*CLOCK_CHANGES[3], "day")]
)
def test_every_feature_and_label_of_a_periodic_spine_equals_the_oracle(
    spark: SparkSession, zone: str, start: datetime, unit: str
) -> None:
    """Steps at local midnights and at elapsed hours; the label is another table's future, often empty."""
    data = members_data(seed=start.day, start=start, zone=zone)
    first, run_date = start.date(), (start + (7 * DAY if unit == "day" else 4 * DAY)).date()
    pipeline = pipeline_of(MEMBERS.format(zone=zone, unit=unit, start=first))
    found = found_rows(frames(spark, pipeline, data, partitions=3), pipeline, run_date)
    expected = members_oracle(data, zone, first, 1 if unit == "hour" else None, run_date)
    assert any(row["label"] == -1.0 for row in expected) and any(row["label"] is None for row in expected)
    same(found, expected, key=["member", "as_of"])


def test_what_happens_later_changes_no_feature(spark: SparkSession) -> None:
    """Another future (other delays, prices and readings after a moment) leaves the features up to it as they were."""
    zone, start = CLOCK_CHANGES[1]
    moment = start + 5 * DAY
    data = trips_data(seed=5, start=start)
    other = {name: [dict(row) for row in rows] for name, rows in data.items()}
    changed = 0
    for trip in other["trips"]:
        known, arrival = delay_known(trip), arrived(trip)
        if known is not None and known >= moment:
            trip["delay"] += 90.0
            changed += 1
        if arrival is not None and arrival >= moment:
            trip["took"] += 120.0
            changed += 1
    for ticket in other["tickets"]:
        if ticket["sold_at"] >= moment:
            ticket["price"] = 99.0
            changed += 1
    other["weather"] = [r for r in other["weather"] if r["read_at"].replace(minute=0) + HOUR < moment]
    assert changed > 50
    pipeline = pipeline_of(TRIPS.format(zone=zone))
    made = []
    for rows in (data, other):
        frame = features.frame(frames(spark, pipeline, rows, partitions=2), pipeline, run_date=moment.date()).toPandas()
        made.append(
            frame[frame["as_of"] <= pd.Timestamp(moment).tz_localize(None)].sort_values("number").reset_index(drop=True)
        )
    assert len(made[0]) > 100
    pd.testing.assert_frame_equal(made[0], made[1])


def test_partitions_change_nothing(spark: SparkSession) -> None:
    """1, 2 and 7 input partitions give identical features, labels and membership, to the last bit."""
    zone, start = CLOCK_CHANGES[1]
    data = trips_data(seed=11, start=start)
    pipeline = pipeline_of(TRIPS.format(zone=zone))
    run_date = (start + 7 * DAY).date()
    found = []
    for partitions in (1, 2, 7):
        sources = frames(spark, pipeline, data, partitions)
        rows = spine.rows(sources, pipeline, run_date=run_date)
        labelled = labels.labelled(rows, sources, pipeline, run_date=run_date).cache()
        cut = split.boundaries(labelled, pipeline.split, key=["line", "number"], timezone=zone, run_date=run_date)
        members = split.membership(labelled, pipeline.split, cut, key=["line", "number"]).toPandas()
        made = features.frame(sources, pipeline, run_date=run_date).toPandas()
        found.append([frame.sort_values(["line", "number"]).reset_index(drop=True) for frame in (made, members)])
    for other in found[1:]:
        for left, right in zip(found[0], other, strict=True):
            pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_no_fold_trains_on_a_label_known_after_it_began(spark: SparkSession) -> None:
    """From rows to folds: what fold k trains on was decided and known before its start minus the gap, and likewise the test part."""
    zone, start = CLOCK_CHANGES[1]
    data = trips_data(seed=13, start=start)
    pipeline = pipeline_of(TRIPS.format(zone=zone))
    run_date = (start + 7 * DAY).date()
    sources = frames(spark, pipeline, data, partitions=3)
    rows = spine.rows(sources, pipeline, run_date=run_date)
    labelled = labels.labelled(rows, sources, pipeline, run_date=run_date)
    cut = split.boundaries(labelled, pipeline.split, key=["line", "number"], timezone=zone, run_date=run_date)
    members = split.membership(labelled, pipeline.split, cut, key=["line", "number"]).toPandas()
    gap = pd.Timedelta(hours=2)
    train = members[members["part"] == "train"]
    assert train["label_known_at"].max() < members[members["part"] == "test"]["as_of"].min() - gap
    assert (members["part"] == "purged").any()
    trained = 0
    for fold in range(3):
        began = pd.Timestamp(cut.starts()[fold], unit="us")
        assert train[train["fold"] == fold]["as_of"].min() >= began
        fitted = train[train["train_from"] <= fold]
        trained += len(fitted)
        assert fitted["label_known_at"].max() < began - gap
        assert fitted["as_of"].max() < began - gap
    assert trained > 60

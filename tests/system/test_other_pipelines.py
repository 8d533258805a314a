"""Three pipelines that share nothing with the flights, from YAML alone: each is run whole and judged by pandas and scikit-learn.

The oracles recompute every feature from the raw files, and fit scikit-learn on the rows that the pipeline trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jobs.runtime import Arguments, execute

ROWS = 100_000

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Lake:
    """What a finished run left, read by delta-rs."""

    root: Path
    pipeline: str
    summary: dict[str, Any]

    def table(self, kind: str, name: str) -> pd.DataFrame:
        """The newest rows of the one table `kind/<pipeline>_<name>*`; `_` columns left out."""
        (folder,) = (self.root / kind).glob(f"{self.pipeline}_{name}*")
        frame = DeltaTable(str(folder)).to_pyarrow_table().to_pandas()
        return frame[[column for column in frame if not column.startswith("_")]]

    def rows(self) -> pd.DataFrame:
        """Features, label and part of every labelled row, joined on key and as_of."""
        features, labels, parts = (
            self.table("gold", "features"),
            self.table("gold", "labels"),
            self.table("ops", "membership"),
        )
        key = [column for column in labels if column not in ("label", "label_known_at")]
        return features.merge(labels, on=key).merge(parts, on=key)


RunPipeline = Callable[[str], Lake]


@pytest.fixture
def run_pipeline(spark: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunPipeline:
    """Run a pipeline text over `tmp_path/raw`; the summary is the last line on standard output."""

    def run(text: str) -> Lake:
        name = text.split("pipeline: ")[1].split("\n")[0]
        (tmp_path / f"{name}.yaml").write_text(text)
        (tmp_path / "env.yaml").write_text(
            f"name: test\nraw: {tmp_path}/raw\nlake: {tmp_path}/lake\nmaster: local[2]\n"
        )
        code = execute("run", Arguments(str(tmp_path / f"{name}.yaml"), str(tmp_path / "env.yaml")))
        output = capsys.readouterr()
        assert code == 0, output.err
        return Lake(tmp_path / "lake", name, json.loads(output.out.strip().splitlines()[-1]))

    return run


def same_rows(found: pd.DataFrame, expected: pd.DataFrame, key: list[str]) -> None:
    """Equal frames whatever the order of rows and columns."""
    columns = sorted(expected.columns)
    assert sorted(found.columns) == columns
    left, right = (frame[columns].sort_values(key).reset_index(drop=True) for frame in (found, expected))
    pd.testing.assert_frame_equal(left, right, check_dtype=False, rtol=1e-9)


def preprocessing(numeric: list[str], categorical: list[str]) -> ColumnTransformer:
    """Mean imputation with a missing flag, scaling, one-hot with unseen values ignored: what millrace does for linear models."""
    return ColumnTransformer(
        [
            ("numeric", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), numeric),
            ("categorical", OneHotEncoder(handle_unknown="ignore"), categorical),
        ]
    )


HOUSES = """\
pipeline: houses
question: What will this house sell for, in thousands?
task: regression
sources:
  sales:
    files: sales/*.csv
    nulls: ['', NA]
    columns:
      living_area: {type: double, from: Living Area}
      year_built: {type: int, from: "Year Built"}
      quarter: {type: string, from: QUARTER of Town}
      rooms: {type: int!, from: Rooms}
      price: {type: double!, from: Sale Price}
    rules: {priced: price > 0}
features:
  spine: sales
  label: {name: price, value: price}
  columns: {age_years: 2024 - year_built, area_by_room: living_area / rooms}
  numeric: [living_area, age_years, area_by_room, rooms]
  categorical: [quarter]
split: {test: {share: 0.25}, folds: {kind: random, count: 3}}
train:
  metric: rmse
  candidates:
    linear: {estimator: linear_regression, grid: {reg_param: [0.0, 1.0]}}
evaluate: {slices: [quarter], bootstrap: 50}
"""


def write_houses(raw: Path) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rooms = rng.integers(1, 9, ROWS)
    area = np.round(rooms * 22 + rng.gamma(3, 8, ROWS), 1)
    built = rng.integers(1900, 2024, ROWS)
    quarter = rng.choice(["Old Town", "Harbour", "Hill", "Müller's Field"], ROWS, p=[0.4, 0.3, 0.2, 0.1])
    level = pd.Series(quarter).map({"Old Town": 90.0, "Harbour": 40.0, "Hill": 60.0, "Müller's Field": 0.0}).to_numpy()
    price = np.round(150 + 2.1 * area + level - 0.8 * (2024 - built) + rng.normal(0, 40, ROWS), 2)
    frame = pd.DataFrame(
        {
            "Sale Price": price.clip(1),
            "Living Area": area,
            "Year Built": built.astype("float"),
            "QUARTER of Town": quarter,
            "Rooms": rooms,
        }
    )
    frame.loc[rng.random(ROWS) < 0.05, "Living Area"] = np.nan
    frame.loc[rng.random(ROWS) < 0.02, "QUARTER of Town"] = None
    frame["Year Built"] = frame["Year Built"].astype("Int64")
    (raw / "sales").mkdir(parents=True)
    for part, piece in enumerate(np.array_split(np.arange(ROWS), 3)):
        columns = (
            list(frame.columns) if part != 1 else list(frame.columns[::-1])
        )  # one delivery with its columns in another order
        frame.iloc[piece][columns].to_csv(raw / "sales" / f"part-{part}.csv", index=False, na_rep="NA")
    return frame


def test_regression_without_time_or_key(tmp_path: Path, run_pipeline: RunPipeline) -> None:
    """Headers with spaces and capitals, no key, no clock; r2 as scikit-learn's on the same rows."""
    raw = write_houses(tmp_path / "raw")
    lake = run_pipeline(HOUSES)

    expected = pd.DataFrame(
        {
            "living_area": raw["Living Area"],
            "age_years": (2024 - raw["Year Built"]).astype(float),
            "area_by_room": raw["Living Area"] / raw["Rooms"],
            "rooms": raw["Rooms"].astype(float),
            "quarter": raw["QUARTER of Town"],
            "label": raw["Sale Price"],
        }
    )
    rows = lake.rows()
    assert rows["row_id"].is_unique
    same_rows(rows[list(expected.columns)], expected, key=list(expected.columns))

    numeric, categorical = ["living_area", "age_years", "area_by_room", "rooms"], ["quarter"]
    train, test = rows[rows["part"] == "train"], rows[rows["part"] == "test"]
    assert abs(len(test) / ROWS - 0.25) < 0.01
    oracle = make_pipeline(preprocessing(numeric, categorical), LinearRegression())
    oracle.fit(train.fillna({"quarter": "?"}), train["label"])
    r2 = r2_score(test["label"], oracle.predict(test.fillna({"quarter": "?"})))
    assert lake.summary["evaluate"]["metrics"]["r2"] == pytest.approx(r2, abs=0.005)


ORDERS = """\
pipeline: orders
question: Will this order be kept, returned or exchanged?
task: multiclass
classes: [kept, returned, exchanged]
sources:
  orders:
    files: orders/*.jsonl
    columns: {shop: string!, number: int!, buyer_land: string!, buyer_id: int!, channel: string, state: string}
    key: [shop, number]
    outcomes: [{columns: [state], known_at: "timestamp'2024-01-01'"}]
  buyers:
    files: buyers.parquet
    static: true
    columns: {land: string!, client: int!, age: int, zone: int}
    key: [land, client]
  zones:
    files: zones.csv
    static: true
    columns: {country: string!, area: int!, income: double}
    key: [country, area]
  items:
    files: items/*.csv
    columns: {store: string!, order_number: int!, line: int!, price: double!, size: string}
    key: [store, order_number, line]
features:
  spine: orders
  label: {name: state, value: state}
  joins:
    - {source: buyers, by: {buyer_land: land, buyer_id: client}, take: {age: age, zone: zone}}
    - {source: zones, by: {buyer_land: country, zone: area}, take: [income]}
  children:
    - {of: items, by: {shop: store, number: order_number}, take: {items: count(*), total: sum(price), dearest: max(price)}}
  numeric: [age, income, items, total, dearest]
  categorical: [channel, buyer_land]
split: {test: {share: 0.2, by: [buyer_id]}, folds: {kind: stratified, count: 3}}
train:
  metric: accuracy
  candidates:
    logistic: {estimator: logistic_regression, grid: {reg_param: [0.0001, 0.01]}}
evaluate: {slices: [channel], bootstrap: 50}
score: {rows: all}
"""


def write_orders(raw: Path) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(2)
    lands, buyers = ["NO", "DE", "FR"], 8_000
    clients = pd.DataFrame({"land": rng.choice(lands, buyers), "client": np.arange(buyers)})
    clients["age"] = pd.array(rng.integers(18, 90, buyers), dtype="Int32")
    clients.loc[rng.random(buyers) < 0.04, "age"] = pd.NA
    clients["zone"] = pd.array(rng.integers(0, 40, buyers), dtype="Int32")
    zones = pd.DataFrame(
        [(land, area, round(float(rng.gamma(4, 9)), 3)) for land in lands for area in range(38)],
        columns=["country", "area", "income"],
    )
    index = rng.integers(0, buyers, ROWS)
    orders = pd.DataFrame(
        {
            "shop": rng.choice(["north", "south"], ROWS),
            "number": np.arange(ROWS) // 2,
            "buyer_land": clients["land"].to_numpy()[index],
            "buyer_id": index,
            "channel": rng.choice(["web", "phone", "desk"], ROWS),
        }
    )
    orders["shop"] = np.where(np.arange(ROWS) % 2 == 0, "north", "south")  # a number is unique within its shop alone
    lines = rng.integers(0, 5, ROWS)
    which = np.repeat(np.arange(ROWS), lines)
    items = pd.DataFrame(
        {
            "store": orders["shop"].to_numpy()[which],
            "order_number": orders["number"].to_numpy()[which],
            "line": np.concatenate([np.arange(n) for n in lines]),
            "price": np.round(rng.gamma(2, 30, len(which)), 2),
            "size": rng.choice(["S", "M", "L"], len(which)),
        }
    )
    total = items.groupby(["store", "order_number"])["price"].sum()
    spent = total.reindex(pd.MultiIndex.from_frame(orders[["shop", "number"]])).fillna(0).to_numpy()
    age = clients["age"].astype("float").fillna(50).to_numpy()[index]
    score = np.c_[np.full(ROWS, 1.0), 0.012 * spent - 0.9, 0.03 * (age - 50) + (orders["channel"] == "phone") * 1.2]
    noisy = score + rng.gumbel(size=score.shape)
    orders["state"] = np.array(["kept", "returned", "exchanged"])[noisy.argmax(axis=1)]
    for folder in ("orders", "items"):
        (raw / folder).mkdir(parents=True)
    for part, piece in enumerate(np.array_split(np.arange(ROWS), 2)):
        orders.iloc[piece].to_json(raw / "orders" / f"{part}.jsonl", orient="records", lines=True)
    items.to_csv(raw / "items" / "all.csv", index=False)
    clients.to_parquet(raw / "buyers.parquet", index=False)
    zones.to_csv(raw / "zones.csv", index=False)
    return {"orders": orders, "buyers": clients, "zones": zones, "items": items}


@pytest.mark.system
def test_multiclass_over_three_sources_with_two_column_keys(tmp_path: Path, run_pipeline: RunPipeline) -> None:
    """Two-hop lookup, child aggregates, a text label; accuracy as scikit-learn's on the same rows."""
    raw = write_orders(tmp_path / "raw")
    lake = run_pipeline(ORDERS)

    expected = raw["orders"].merge(
        raw["buyers"], how="left", left_on=["buyer_land", "buyer_id"], right_on=["land", "client"]
    )
    expected = expected.merge(raw["zones"], how="left", left_on=["buyer_land", "zone"], right_on=["country", "area"])
    sums = (
        raw["items"]
        .groupby(["store", "order_number"])["price"]
        .agg(items="count", total="sum", dearest="max")
        .reset_index()
    )
    expected = expected.merge(sums, how="left", left_on=["shop", "number"], right_on=["store", "order_number"])
    expected["items"] = expected["items"].fillna(0)
    expected["label"] = expected["state"].map({"kept": 0.0, "returned": 1.0, "exchanged": 2.0})
    numeric, categorical = ["age", "income", "items", "total", "dearest"], ["channel", "buyer_land"]
    expected[numeric] = expected[numeric].astype(float)
    rows = lake.rows()
    columns = ["shop", "number", *numeric, *categorical, "label"]
    same_rows(rows[columns], expected[columns], key=["shop", "number"])

    train, test = rows[rows["part"] == "train"], rows[rows["part"] == "test"]
    buyer = expected.set_index(["shop", "number"])["buyer_id"]
    buyers = [set(buyer.loc[pd.MultiIndex.from_frame(part[["shop", "number"]])]) for part in (train, test)]
    assert not buyers[0] & buyers[1]
    oracle = make_pipeline(preprocessing(numeric, categorical), LogisticRegression(C=1e4, max_iter=500))
    oracle.fit(train, train["label"])
    accuracy = accuracy_score(test["label"], oracle.predict(test))
    assert lake.summary["evaluate"]["metrics"]["accuracy"] == pytest.approx(accuracy, abs=0.005)
    predictions = lake.table("gold", "predictions")
    assert len(predictions) == ROWS and set(predictions["prediction"]) <= {"kept", "returned", "exchanged"}


CHURN = """\
pipeline: churn
question: Will this customer buy nothing in the next 30 days? Asked on the first of each month.
task: binary
timezone: Europe/Berlin
sources:
  customers:
    files: customers.csv
    columns: {customer: int!, signed_up_at: timestamp!, plan: string}
    key: [customer]
    at: signed_up_at
  purchases:
    files: purchases/*.csv
    columns: {id: int!, buyer: int!, bought_at: timestamp!, amount: double!}
    key: [id]
    at: bought_at
features:
  spine: {entities: customers, every: 1 month, from: 2022-01-01}
  label: {name: gone, of: purchases, by: {customer: buyer}, within: 30 days, value: CAST(count(*) = 0 AS DOUBLE)}
  windows:
    - {of: purchases, by: {customer: buyer}, over: [30 days, 90 days], take: {bought: count(*), spent: sum(amount)}}
  numeric: [bought_30_days, bought_90_days, spent_30_days, spent_90_days]
  categorical: [plan]
split: {test: {last: 120 days}, folds: {kind: time, count: 3}}
train:
  metric: area_under_roc
  candidates:
    logistic: {estimator: logistic_regression, grid: {reg_param: [0.0001, 0.01]}}
evaluate: {slices: [plan], bootstrap: 50}
score: {rows: unlabelled}
"""


def write_churn(raw: Path) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(3)
    customers, begin, end = 5_200, pd.Timestamp("2021-11-01", tz="UTC"), pd.Timestamp("2024-01-01", tz="UTC")
    days = (end - begin).days
    joined = rng.random(customers) * 300
    rate = rng.gamma(0.8, 0.05, customers)
    counts = rng.poisson(rate * (days - joined))
    buyer = np.repeat(np.arange(customers), counts)
    when = joined[buyer] + rng.random(len(buyer)) * (days - joined[buyer])
    people = pd.DataFrame(
        {
            "customer": np.arange(customers),
            "signed_up_at": (begin + pd.to_timedelta(np.floor(joined * 86400), unit="s")),
        }
    )
    people["plan"] = np.where(
        rng.random(customers) < 0.03,
        None,
        np.where(rate > 0.04, rng.choice(["plus", "free"], customers, p=[0.7, 0.3]), "free"),
    )
    buys = pd.DataFrame(
        {
            "buyer": buyer,
            "bought_at": begin + pd.to_timedelta(np.floor(when * 86400), unit="s"),
            "amount": np.round(rng.gamma(2, 15, len(buyer)), 2),
        }
    )
    # Some purchases fall exactly on a moment of decision: they belong to the future.
    buys.loc[:200, "bought_at"] = pd.Timestamp("2023-03-01", tz="Europe/Berlin").tz_convert("UTC")
    buys.insert(0, "id", np.arange(len(buys)))
    (raw / "purchases").mkdir(parents=True)
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    people.to_csv(raw / "customers.csv", index=False, date_format=stamp)
    for part, piece in enumerate(np.array_split(rng.permutation(len(buys)), 3)):
        buys.iloc[piece].to_csv(raw / "purchases" / f"{part}.csv", index=False, date_format=stamp)
    return {"customers": people, "purchases": buys}


def churn_oracle(raw: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Features and label of every customer and first of a month in Berlin, by sorted arrays and bisection."""
    buys = raw["purchases"].sort_values(["buyer", "bought_at"])
    run_date = (
        max(raw["purchases"]["bought_at"].max(), raw["customers"]["signed_up_at"].max()).tz_convert("Europe/Berlin")
        + pd.Timedelta(days=1)
    ).normalize()
    moments = pd.date_range("2022-01-01", run_date.tz_localize(None), freq="MS").tz_localize("Europe/Berlin")
    moments = moments.tz_convert("UTC")
    moments = moments[moments <= run_date]
    rows = []
    by_buyer = dict(iter(buys.groupby("buyer")))  # the groupby itself has `keys` that is no method
    empty = buys.iloc[:0]
    for person in raw["customers"].itertuples():
        own = by_buyer.get(person.customer, empty)
        at, amount = own["bought_at"].dt.tz_convert(None).to_numpy(), own["amount"].to_numpy()
        for moment in moments[moments >= person.signed_up_at]:
            now = np.searchsorted(at, moment.to_datetime64())
            row = {"customer": person.customer, "as_of": moment, "plan": person.plan}
            for width in (30, 90):
                start = np.searchsorted(at, (moment - pd.Timedelta(days=width)).to_datetime64())
                row[f"bought_{width}_days"] = float(now - start)
                row[f"spent_{width}_days"] = amount[start:now].sum() if now > start else np.nan
            later = moment + pd.Timedelta(days=30)
            row["label"] = float(np.searchsorted(at, later.to_datetime64()) == now) if later < run_date else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.mark.system
def test_periodic_spine_with_a_label_from_the_future_of_another_table(
    tmp_path: Path, run_pipeline: RunPipeline
) -> None:
    """Months in Berlin's time; the last months have no label yet and are the ones scored."""
    raw = write_churn(tmp_path / "raw")
    lake = run_pipeline(CHURN)

    expected = churn_oracle(raw)
    assert len(expected) > ROWS
    features, labels = lake.table("gold", "features"), lake.table("gold", "labels")
    found = features.merge(labels, on=["customer", "as_of"])[list(expected.columns)]
    found["as_of"] = pd.to_datetime(found["as_of"], utc=True).astype("datetime64[us, UTC]")
    expected["as_of"] = expected["as_of"].astype("datetime64[us, UTC]")
    same_rows(found, expected, key=["customer", "as_of"])

    rows = lake.rows()
    train, test = rows[rows["part"] == "train"], rows[rows["part"] == "test"]
    assert train["label_known_at"].max() <= test["as_of"].min()
    numeric, categorical = [c for c in expected if c.startswith(("bought", "spent"))], ["plan"]
    oracle = make_pipeline(preprocessing(numeric, categorical), LogisticRegression(C=1e4, max_iter=1000))
    oracle.fit(train.fillna({"plan": "?"}), train["label"])
    auc = roc_auc_score(test["label"], oracle.predict_proba(test.fillna({"plan": "?"}))[:, 1])
    assert lake.summary["evaluate"]["metrics"]["area_under_roc"] == pytest.approx(auc, abs=0.005)

    predictions = lake.table("gold", "predictions")
    unlabelled = labels[labels["label"].isna()]
    assert len(predictions) == len(unlabelled) > 0
    assert set(zip(predictions["customer"], predictions["as_of"], strict=False)) == set(
        zip(unlabelled["customer"], unlabelled["as_of"], strict=False)
    )

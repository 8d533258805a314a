"""A small pipeline file to spoil, and what loading it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conf.errors import ConfigError
from conf.load import load

SHOP = """\
pipeline: shop
task: binary
timezone: Europe/Berlin
sources:
  orders:
    files: orders/*.csv
    columns: {number: int!, buyer: string!, placed_at: timestamp!, price: double, sent_at: timestamp, returned: boolean}
    derive:
      days: datediff(sent_at, placed_at)
    key: [number]
    at: placed_at
    outcomes:
      - {columns: [sent_at], known_at: sent_at}
      - {columns: [returned], known_at: placed_at + INTERVAL 30 DAYS}
    rules: {priced: price > 0}
  prices:
    files: prices.csv
    columns: {day: date!, level: double}
    key: [day]
    at: day
  buyers:
    files: buyers.csv
    static: true
    columns: {id: string!, land: string}
    key: [id]
  items:
    files: items.csv
    columns: {order: int!, line: int!, weight: double, damaged: boolean}
    key: [order, line]
    outcomes: [{columns: [damaged], known_at: "timestamp'2030-01-01'"}]
features:
  spine: orders
  as_of: placed_at
  label: {name: is_returned, value: CAST(returned AS DOUBLE)}
  columns:
    day: CAST(placed_at AS DATE)
  joins:
    - {source: prices, by: [day], within: 2 days, take: [level]}
    - {source: buyers, by: {buyer: id}, take: [land]}
  windows:
    - {of: orders, by: [buyer], over: [1 day, 30 days], take: {earlier: count(*), returns: avg(is_returned)}}
  children:
    - {of: items, by: {number: order}, take: {weight: sum(weight)}}
  numeric: [price, level, earlier_1_day, earlier_30_days, returns_30_days, weight]
  categorical: [land]
split:
  test: {last: 60 days}
  folds: {kind: time, count: 3, gap: 1 day}
train:
  metric: area_under_roc
  candidates:
    logistic: {estimator: logistic_regression, grid: {reg_param: [0.1, 1e-4]}}
score: {rows: unlabelled}
"""

Complaints = Callable[..., list[str]]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, in the working directory as `shop.yaml`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.yaml").write_text(SHOP)
    return tmp_path / "shop.yaml"


@pytest.fixture
def complaints(shop: Path) -> Complaints:
    """What loading says after pieces of the file were replaced, given as (old, new) pairs; nothing when it says nothing."""

    def complain(*changes: tuple[str, str], settings: tuple[str, ...] = ()) -> list[str]:
        text = SHOP
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the file"
            text = text.replace(old, new)
        shop.write_text(text)
        try:
            load("shop.yaml", settings=settings)
        except ConfigError as error:
            return list(error.problems)
        return []

    return complain

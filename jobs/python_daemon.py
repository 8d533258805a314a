"""Spark's daemon of Python workers, which imports once what nearly every worker needs, before it forks them.

In local mode `jobs.session` has Spark start this module in place of `pyspark.daemon`. Without it each new worker takes half a second for
its imports, and Spark lets workers go that are idle for a minute.
"""

from __future__ import annotations

import numpy  # noqa: F401
import pandas  # noqa: F401
import pyarrow  # noqa: F401
from pyspark.daemon import manager

import models.exact.task  # noqa: F401

if __name__ == "__main__":
    manager()

"""Spark's classes as the JVM holds them, mapped from a file: processes start faster (application class data sharing, JEP 350).

The file lies in the virtual environment. A JVM that finds it made by another Java or for other jars loads classes as ever.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pyspark import SparkContext
from pyspark.sql import functions as F

FILE = Path(sys.prefix) / "spark-classes.jsa"
_QUIET = ("-Xlog:cds=off", "-Xlog:cds+dynamic=off")  # that a file does not fit is no news for standard output


def options() -> list[str]:
    """What the JVM of a local session is started with; nothing where there is no file."""
    return [f'"-XX:SharedArchiveFile={FILE}"', *_QUIET] if FILE.exists() else []


def main() -> int:
    """Make the file from what a session loads while it reads, writes and joins small tables; 0 also where this Java makes none."""
    # The session adds our options to its own, hence not above.
    from conf.schema import Environment
    from jobs import session
    from jobs.lake import Lake, Transaction
    from transforms import contracts

    made = FILE.with_suffix(".part")
    made.unlink(missing_ok=True)  # of a try that was killed
    java = {"spark.driver.extraJavaOptions": f'"-XX:ArchiveClassesAtExit={made}" {" ".join(_QUIET)}'}
    spark = session.build(Environment(driver_memory="1g", spark=java), app="class archive")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rows.csv").write_text("key,value\n1,2.5\n2,\n")
        rows = spark.read.schema("key INT, value DOUBLE").option("header", True).csv(f"{folder}/rows.csv")
        lake = Lake(spark, folder)
        table = contracts.labels("archive", "1", (contracts.Field("key", "int", "key", True),))
        known = F.lit(None).cast("timestamp")
        labels = rows.select("key", known.alias("as_of"), F.col("value").alias("label"), known.alias("label_known_at"))
        lake.append(labels, table, Transaction("first", 1))
        lake.merge(labels.filter("value > 1"), table, Transaction("second", 1))
        lake.read(table).groupBy("key").agg(F.sum("label")).orderBy("key").collect()
    gateway = SparkContext._gateway
    assert gateway is not None
    spark.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()  # the JVM ends with it, and writes the file then
    gateway.proc.wait(timeout=120)
    if made.exists():
        os.replace(made, FILE)
    else:
        sys.stdout.write("This Java made no archive of classes; sessions start without one.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The flights of 2013 several times over, as raw files for benchmarks."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

FLIGHTS = Path(__file__).resolve().parents[1] / "data" / "raw" / "flights"
COLUMNS = {
    "year": "int!",
    "month": "int!",
    "day": "int!",
    "carrier": "string!",
    "flight": "int!",
    "tailnum": "string",
    "origin": "string!",
    "dest": "string!",
    "time_hour": "timestamp!",
    "dep_delay": "double",
    "arr_delay": "double",
    "air_time": "double",
    "distance": "double!",
}


def write_files(raw: Path, copies: int) -> int:
    """The months of flights `copies` times; each copy adds 10,000 to the flight numbers. Returns the rows."""
    (raw / "flights").mkdir(parents=True)
    rows = 0
    for month in sorted(FLIGHTS.glob("*.csv")):
        options = pacsv.ConvertOptions(include_columns=list(COLUMNS), column_types=dict.fromkeys(COLUMNS, pa.string()))
        table = pacsv.read_csv(month, convert_options=options)
        number = pc.cast(table["flight"], pa.int64())
        for copy in range(copies):
            moved = pc.cast(pc.add(number, 10_000 * copy), pa.string())
            made = table.set_column(table.column_names.index("flight"), "flight", moved)
            quoting = pacsv.WriteOptions(quoting_style="none")
            pacsv.write_csv(made, raw / "flights" / f"{month.stem}-copy{copy}.csv", quoting)
            rows += made.num_rows
    return rows

"""The archive of classes: named where it is, made by a JVM that ends, and no obstacle when it does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import class_archive

ROOT = Path(__file__).resolve().parents[2]
MAKE = "from pathlib import Path; from jobs import class_archive; class_archive.FILE = Path({!r}); class_archive.main()"
START = """
from pathlib import Path
from jobs import class_archive, session
class_archive.FILE = Path({!r})
from conf.schema import Environment
spark = session.build(Environment(driver_memory="1g"), app="start")
jvm = spark._jvm.java.lang.ProcessHandle.current().pid()
print(spark.range(3).count(), str(class_archive.FILE) in Path(f"/proc/{{jvm}}/maps").read_text())
"""


@pytest.mark.quick
def test_options_name_the_file_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "with blank.jsa"
    monkeypatch.setattr(class_archive, "FILE", file)
    assert class_archive.options() == []
    file.touch()
    assert class_archive.options() == [
        f'"-XX:SharedArchiveFile={file}"',
        "-Xlog:cds=off",
        "-Xlog:cds+dynamic=off",
    ]


@pytest.mark.system
def test_it_is_made_and_mapped_and_a_damaged_one_is_ignored(tmp_path: Path) -> None:
    """The JVM has mapped the file; with garbage in its place sessions start, and say nothing of it."""
    file = tmp_path / "with blank.jsa"

    def python(name: str, code: str) -> str:
        script = tmp_path / name
        script.write_text(code)
        done = subprocess.run(
            [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=200,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("make.py", MAKE.format(str(file)))
    assert file.stat().st_size > 10_000_000
    assert python("mapped.py", START.format(str(file))) == "3 True\n"

    file.chmod(0o644)
    file.write_bytes(b"garbage")
    assert python("ignored.py", START.format(str(file))) == "3 False\n"

"""Small files beside the tables (leases, outcomes, reports) on whatever file system the lake lies on."""

from __future__ import annotations

from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession


class Storage:
    """Hadoop's file systems (local, hdfs, s3a) through the running session."""

    def __init__(self, spark: SparkSession) -> None:
        assert spark._jvm is not None and spark._jsc is not None
        self._jvm: Any = spark._jvm
        self._conf: Any = spark._jsc.hadoopConfiguration()

    def create(self, path: str, text: str) -> bool:
        """Write a file that does not exist yet; False when it does."""
        system, target = self._resolve(path)
        try:
            stream = system.create(target, False)
        except Py4JJavaError as error:
            if "FileAlreadyExistsException" in str(error.java_exception.getClass().getName()):
                return False
            raise
        _fill(stream, text)
        return True

    def write(self, path: str, text: str) -> None:
        """Write a file, replacing the one there."""
        system, target = self._resolve(path)
        _fill(system.create(target, True), text)

    def read(self, path: str) -> str | None:
        """Content of a file, None when there is none."""
        system, target = self._resolve(path)
        if not system.exists(target):
            return None
        stream = system.open(target)
        try:
            return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        finally:
            stream.close()

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        system, target = self._resolve(path)
        system.delete(target, False)

    def _resolve(self, path: str) -> tuple[Any, Any]:
        target = self._jvm.org.apache.hadoop.fs.Path(path)
        return target.getFileSystem(self._conf), target


def _fill(stream: Any, text: str) -> None:
    try:
        stream.write(bytearray(text.encode()))
    finally:
        stream.close()

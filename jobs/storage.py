"""Small files beside the tables (leases, outcomes, reports) on whatever file system the lake lies on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from py4j.java_gateway import is_instance_of
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from jobs import java_objects

CONDITIONAL = "fs.option.create.conditional.overwrite"  # S3A: If-None-Match


class Storage:
    """Hadoop's file systems (local, hdfs, s3a) through the running session."""

    def __init__(self, spark: SparkSession) -> None:
        assert spark._jvm is not None and spark._jsc is not None
        self._jvm: Any = spark._jvm
        self._spark = spark
        self._conf: Any = spark._jsc.hadoopConfiguration()

    def create(self, path: str, text: str) -> bool:
        """Write a file that does not exist yet; False when it does. Of several writers at once exactly one creates it.

        Args:
            text: no two writers' texts are equal: a store may have kept what it answered with an error, or not at all.
        """
        system, target = self._resolve(path)
        try:
            if is_local(system):  # Hadoop's own looks first and creates then
                local = Path(str(system.makeQualified(target).toUri().getPath()))
                local.parent.mkdir(parents=True, exist_ok=True)
                with local.open("x") as stream:
                    stream.write(text)
            elif system.hasPathCapability(target, CONDITIONAL):  # object stores
                _fill(system.createFile(target).recursive().must(CONDITIONAL, True).build(), text)
            else:
                _fill(system.create(target, False), text)
        except (FileExistsError, Py4JJavaError):
            found = self.read(path)
            if found is None:
                raise
            return found == text
        return True

    def write(self, path: str, text: str) -> None:
        """Write a file, replacing the one there."""
        system, target = self._resolve(path)
        _fill(system.create(target, True), text)

    def read(self, path: str) -> str | None:
        """Content of a file, None when there is none."""
        system, target = self._resolve(path)
        try:
            stream = system.open(target)
        except Py4JJavaError as error:
            if is_missing_file(self._spark, error):
                return None
            raise
        try:
            return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        finally:
            stream.close()

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, none where there is no folder."""
        system, target = self._resolve(folder)
        try:
            found = java_objects.listed(self._jvm, system.listStatus(target))
            return java_objects.each(self._jvm, found, "getPath", "getName")
        except Py4JJavaError as error:
            if is_missing_file(self._spark, error):
                return []
            raise

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        system, target = self._resolve(path)
        system.delete(target, False)

    def _resolve(self, path: str) -> tuple[Any, Any]:
        target = self._jvm.org.apache.hadoop.fs.Path(path)
        system = target.getFileSystem(self._conf)
        # Without the checksum files of the local file system: who reads while another writes would find the two at odds.
        return (system.getRawFileSystem() if is_local(system) else system), target


def is_missing_file(spark: SparkSession, error: Py4JJavaError) -> bool:
    """Whether a Hadoop file system says that there is no such file or folder."""
    return bool(is_instance_of(spark._sc._gateway, error.java_exception, "java.io.FileNotFoundException"))


def is_local(system: Any) -> bool:
    """Whether a Hadoop file system is this machine's disk."""
    return str(system.getUri().getScheme()) == "file"


def _fill(stream: Any, text: str) -> None:
    try:
        stream.write(bytearray(text.encode()))
    finally:
        stream.close()

"""Raw files where they land: what is there, which content each has, and whether it is still the same.

Listing goes through Hadoop's file systems, so that a folder, HDFS and S3 are alike. Bytes of a folder on this machine are read without
them, for a hash and for what `simple_text` tells.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

from py4j.java_gateway import is_instance_of
from py4j.protocol import Py4JJavaError
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from conf.schema import Source
from jobs import java_objects, simple_text
from jobs.simple_text import SimpleText
from jobs.storage import is_local, is_missing_file
from transforms.errors import ContractError

THREADS = 16  # calls to a store wait; they do not compute
# Bytes of a file on disk that is worth a thread of its own: Python's lock lets one at a time look at smaller ones, and changes hands.
WORTH_A_THREAD = 1 << 20
LONGEST_HEADER = 100_000  # characters: what has no line end before is no text

_PLAIN = re.compile(r"[A-Za-z0-9/._=-]+")
_BLANK = "".join(map(chr, range(0x21)))
_T = TypeVar("_T")


@dataclass(frozen=True)
class RawFile:
    """A file as listed. `etag` identifies its content: the store's own etag or checksum, else SHA-256 of the bytes."""

    path: str
    etag: str
    size_bytes: int


@dataclass(frozen=True)
class _Status:
    """What a listing says of a file or folder: its URL and path under the root, and the store's etag where it has one.

    `stamp`: time of the last change, in milliseconds since 1970, and bytes.
    """

    url: str
    path: str
    is_folder: bool
    stamp: tuple[int, int]
    etag: str | None


class Landing:
    """The raw root of an environment."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        assert spark._jvm is not None and spark._jsc is not None and spark._sc._gateway is not None
        self._spark, self._jvm = spark, spark._jvm
        self._gateway = spark._sc._gateway
        self._conf: Any = spark._jsc.hadoopConfiguration()
        path = self._jvm.org.apache.hadoop.fs.Path(root)
        self._system: Any = path.getFileSystem(self._conf)
        self._root: Any = self._system.makeQualified(path)
        self._prefix = str(self._root.toString()).rstrip("/") + "/"
        self._encoded_prefix = _spelled(str(self._root.toUri().toString()).rstrip("/") + "/")
        self._folder = str(self._root.toUri().getPath()) if is_local(self._system) else None
        self._stamps: dict[str, tuple[int, int]] = {}

    def url(self, path: str) -> str:
        """Where a file is, for people."""
        return f"{self._prefix}{path}"

    def urls(self, paths: Iterable[str]) -> list[str]:
        """Where files are, for Spark's readers, which take every path for a glob.

        (Their internal option that turns globs off reads all files twice as soon as one name looks like a glob.)
        """
        return [_escaped(self.url(path)) for path in paths]

    def files(self, pattern: str) -> list[RawFile]:
        """The files that match a glob under the root, by path; of a folder that matches, all files in it.

        Names that begin with `_` or `.` are left out, as Spark leaves them out.

        Raises:
            ContractError: a file on this machine's disk cannot be read.
        """
        statuses = sorted(self._matching(pattern), key=lambda status: status.path)
        self._stamps |= {status.path: status.stamp for status in statuses}
        etags = _each(statuses, self._etag, self._threads(status.stamp[1] for status in statuses))
        return [RawFile(s.path, etag, s.stamp[1]) for s, etag in zip(statuses, etags, strict=True)]

    def differences(self, files: Sequence[RawFile]) -> list[str]:
        """A sentence for each file whose content is no longer what was listed.

        A file that this object listed itself, and that has the same length and time of change as then, is not read again.
        """

        now: dict[str, _Status] = {}
        for folder in sorted({str(PurePath(file.path).parent) for file in files}):
            now |= {status.path: status for status in self._inside(folder)}

        def difference(file: RawFile) -> str | None:
            status = now.get(file.path)
            if status is None:
                return f"{self.url(file.path)}: was listed, and is gone now"
            if status.stamp == self._stamps.get(file.path):
                return None
            etag = self._etag(status)
            if etag != file.etag:
                return f"{self.url(file.path)}: was listed with content {file.etag}, and has {etag} now"
            return None

        sizes = (file.size_bytes for file in files)
        return [sentence for sentence in _each(files, difference, self._threads(sizes)) if sentence]

    def first_lines(self, files: Sequence[RawFile], encoding: str) -> list[str]:
        """The first line of each file that is not blank, empty where there is none. Compressed files are read through their codec.

        Raises:
            ContractError: a file is no text, or is not compressed as its name says; all such files are named.
        """

        def first_line(file: RawFile) -> str | ContractError:
            try:
                return self._first_line(file.path, encoding)
            except Py4JJavaError as error:
                return ContractError(f"{self.url(file.path)}: cannot be read: {error.java_exception.getMessage()}")
            except ContractError as error:
                return error

        lines = _each(files, first_line)
        problems = [str(line) for line in lines if isinstance(line, ContractError)]
        if problems:
            raise ContractError(problems)
        return [line for line in lines if isinstance(line, str)]

    def simple_texts(self, files: Sequence[RawFile], source: Source) -> dict[str, SimpleText]:
        """Path -> what the bytes say, of the CSV files on this machine's disk in which every line is one record.

        Raises:
            ContractError: a file cannot be read.
        """
        if self._folder is None or source.file_format != "csv":
            return {}
        codecs = self._jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(self._conf)
        endings = {PurePath(file.path).suffix for file in files}
        plain = {ending for ending in endings if codecs.getCodec(self._path(f"file{ending}")) is None}
        read = partial(simple_text.read, delimiter=source.delimiter, is_utf8=source.encoding == "utf-8")

        def text(file: RawFile) -> SimpleText | None:
            if PurePath(file.path).suffix not in plain:
                return None
            found = self._on_disk(file.path, read)
            return found if found and len(found.first_line) <= LONGEST_HEADER else None

        texts = _each(files, text, self._threads(file.size_bytes for file in files))
        return {file.path: found for file, found in zip(files, texts, strict=True) if found}

    def parquet_schemas(self, files: Sequence[RawFile]) -> list[str]:
        """The schema in the footer of each Parquet file, as text.

        Raises:
            ContractError: a file has no Parquet footer; all such files are named.
        """
        hadoop = self._jvm.org.apache.parquet.hadoop

        def schema(file: RawFile) -> str | ContractError:
            try:
                source = hadoop.util.HadoopInputFile.fromPath(self._path(file.path), self._conf)
                reader = hadoop.ParquetFileReader.open(source)
                try:
                    return str(reader.getFooter().getFileMetaData().getSchema().toString())
                finally:
                    reader.close()
            except Py4JJavaError as error:
                return ContractError(
                    f"{self.url(file.path)}: expected a Parquet file, found none or a truncated one: {error.java_exception.getMessage()}"
                )

        schemas = _each(files, schema)
        problems = [str(found) for found in schemas if isinstance(found, ContractError)]
        if problems:
            raise ContractError(problems)
        return [found for found in schemas if isinstance(found, str)]

    def encoded(self, files: Sequence[RawFile]) -> dict[str, str]:
        """Path of each file by its URL as Spark reports where it read a row: percent-encoded."""
        return {self._encoded(file.path): file.path for file in files}

    def relative(self, url: Column, files: Sequence[RawFile]) -> Column:
        """The paths of `files` from the URLs that Spark reports; decoded only where a name needs it."""
        prefix = self._encoded_prefix
        # Encoded, so that every character is a byte: a substring of text would count its way to the place, in every row.
        path = F.substring(url.cast("binary"), len(prefix) + 1, 1 << 20).cast("string")
        if all(encoded == prefix + path for encoded, path in self.encoded(files).items()):
            return path
        return F.url_decode(F.replace(path, F.lit("+"), F.lit("%2B")))

    def _encoded(self, path: str) -> str:
        # Most names have nothing to encode, and a call of the JVM for each of many thousand files would take seconds.
        if _PLAIN.fullmatch(path):
            return self._encoded_prefix + path
        return _spelled(str(self._path(path).toUri().toString()))

    def _matching(self, pattern: str) -> Iterator[_Status]:
        hadoop = self._jvm.org.apache.hadoop
        glob = hadoop.fs.Path(f"{_escaped(self._prefix)}{pattern}")
        matching = self._system.globStatus(glob)
        for status in self._statuses(java_objects.listed(self._jvm, matching)) if matching is not None else ():
            if _is_hidden(PurePath(status.path).name):
                continue
            if not status.is_folder:
                yield status
                continue
            inside = self._system.listFiles(hadoop.fs.Path(status.url), True)
            for file in self._statuses(hadoop.util.functional.RemoteIterators.toList(inside)):
                if not any(map(_is_hidden, file.url[len(status.url) + 1 :].split("/"))):
                    yield file

    def _inside(self, folder: str) -> list[_Status]:
        """What lies in a folder under the root; nothing where it is gone."""
        try:
            return self._statuses(java_objects.listed(self._jvm, self._system.listStatus(self._path(folder))))
        except Py4JJavaError as error:
            if is_missing_file(self._spark, error):
                return []
            raise

    def _statuses(self, listed: Any) -> list[_Status]:
        """Of a list of Hadoop's own."""
        if listed.isEmpty():
            return []
        urls = java_objects.each(self._jvm, listed, "getPath", "toString")
        folders, changed, sizes = (
            java_objects.each(self._jvm, listed, getter) for getter in ("isDirectory", "getModificationTime", "getLen")
        )
        has_etags = is_instance_of(self._gateway, listed.get(0), "org.apache.hadoop.fs.EtagSource")
        etags = java_objects.each(self._jvm, listed, "getEtag") if has_etags else [None] * len(urls)
        paths = [url.removeprefix(self._prefix) for url in urls]
        return list(map(_Status, urls, paths, folders, zip(changed, sizes, strict=True), etags))

    def _etag(self, status: _Status) -> str:
        if self._folder is not None:
            return "sha256:" + self._on_disk(status.path, _sha256)
        if status.etag:
            return status.etag
        path = self._path(status.path)
        checksum = self._system.getFileChecksum(path)
        if checksum is not None:
            return str(checksum.toString())
        stream = self._system.open(path)
        try:
            return "sha256:" + str(self._jvm.org.apache.commons.codec.digest.DigestUtils.sha256Hex(stream))
        finally:
            stream.close()

    def _threads(self, sizes: Iterable[int]) -> int:
        """How many look at files of these sizes at once."""
        if self._folder is None:
            return THREADS
        large = sum(size >= WORTH_A_THREAD for size in sizes)
        return max(1, min(large, len(os.sched_getaffinity(0))))

    def _on_disk(self, path: str, read: Callable[[str], _T]) -> _T:
        """What `read` says of a file of this machine."""
        try:
            return read(f"{self._folder}/{path}")
        except OSError as error:
            raise ContractError(f"{self.url(path)}: cannot be read: {error.strerror}.") from error

    def _first_line(self, path: str, encoding: str) -> str:
        java, target = self._jvm.java.io, self._path(path)
        stream = self._system.open(target)
        try:
            codec = self._jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(self._conf).getCodec(target)
            plain = codec.createInputStream(stream) if codec is not None else stream
            bounded = self._jvm.org.apache.commons.io.input.BoundedInputStream(plain, 4 * LONGEST_HEADER)
            reader = java.BufferedReader(java.InputStreamReader(bounded, encoding))
            line = reader.readLine()
            while line is not None and not line.strip("\ufeff" + _BLANK):
                line = reader.readLine()
        finally:
            stream.close()
        if line is not None and len(line) > LONGEST_HEADER:
            raise ContractError(
                f"{self.url(path)}: expected lines of text, found one of more than {LONGEST_HEADER} characters"
            )
        return str(line or "")

    def _path(self, path: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(self._root, path)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _escaped(path: str) -> str:
    """A glob that matches exactly this path."""
    return re.sub(r"([{}\[\]*?\\])", r"\\\1", path)


def _spelled(url: str) -> str:
    """`file:/data` as Spark spells it where it read a row: `file:///data`."""
    return re.sub(r"^([a-z0-9+.-]+):/(?!/)", r"\1:///", url)


def _is_hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _each(items: Sequence[Any], work: Callable[[Any], _T], at_once: int = THREADS) -> list[_T]:
    """`work` on every item, results in order; py4j gives each thread its own connection.

    Items are handed over in batches: for one of them that takes as long as to look at a small file.
    """
    if at_once == 1:
        return list(map(work, items))
    size = max(1, len(items) // (8 * at_once))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(at_once) as threads:
        return [
            found for batch in threads.map(lambda batch: [work(item) for item in batch], batches) for found in batch
        ]

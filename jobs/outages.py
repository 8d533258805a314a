"""What the surroundings of a run did to it (a store, HDFS, a disk, the cluster), told from the JVM's exception as a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping

from py4j.protocol import Py4JNetworkError
from pyspark import SparkContext

AGAIN = "The same command goes on from what was committed."
_NO_ANSWER = (
    f"{{path}}: the store did not answer, or answered with errors, until S3A gave up trying. Look at the store. {AGAIN}"
)
_JVM_HAS_ENDED = (
    "Spark's own process on this machine (the driver's JVM) ended while the job ran. Most often it was killed because memory ran out: leave"
    f" more to it and to Python on this machine, or give it less (`driver_memory`). A file hs_err_pid*.log tells of a crash. {AGAIN}"
)
_PATH = r"(?P<path>[a-z0-9]+:/[^\s:,]+)"

# Pattern in the text of the exception and its causes -> the sentence. The first that is found counts.
_SENTENCES: Mapping[re.Pattern[str], str] = {
    re.compile(
        # S3A names what it writes by its key alone.
        r"AccessDeniedException: (?P<path>[a-z0-9]+:/[^\s:,]+|[^\s:,]+(?=: [^\n]*403))"
    ): "{path}: the store refused access (403). Expected to read and write there."
    f" Check the credentials of this process and the bucket's policy. {AGAIN}",
    re.compile(
        r"DELTA_CANNOT_CREATE_LOG_PATH\] Cannot create (?P<path>\S+)"
    ): "{path}: the folder of a table's log cannot be made. Expected to write there. Check the lake's address, the credentials of this process"
    f" and its rights there. {AGAIN}",
    re.compile(
        r"AccessControlException: (?P<path>[^\n]+)"
    ): f"The file system refused access: {{path}}. Check this user's rights. {AGAIN}",
    re.compile(
        rf"UnknownStoreException: {_PATH}"
    ): "{path}: there is no such bucket. Check `raw` and `lake` in the environment file.",
    re.compile(
        r"No space left on device"
    ): f"A disk is full (of the lake, or of spark.local.dir, which shuffles write to). Make room. {AGAIN}",
    re.compile(
        rf"(AWSServiceThrottledException|AWSStatus500Exception|AWSServiceIOException|AWSApiCallTimeoutException|AWSClientIOException)[^\n]*?{_PATH}"
    ): _NO_ANSWER,
    re.compile(r"HttpChannelEOFException: [\w ]+ on (?P<path>[^\s:]+)"): _NO_ANSWER,
    re.compile(
        r"(ConnectException|UnknownHostException|NoRouteToHostException|ConnectTimeoutException|SocketTimeoutException): (?P<path>[^\n]+)"
    ): f"Something that the run needs cannot be reached: {{path}}. Check addresses and network. {AGAIN}",
    re.compile(
        r"FAILED_READ_FILE\.FILE_NOT_EXIST\] Encountered error while reading file (?P<path>[^\n]+?)\. File does not exist"
    ): "{path}: a file of a table is gone. Restore it, or run the job that wrote the table with --force.",
    re.compile(
        r"FAILED_READ_FILE\.\w+\] Encountered error while reading file (?P<path>\S+/_delta_log/\S+?\.json)\."
    ): "{path}: the log of a table is damaged. Restore it from a copy; what was committed before it stays readable by version.",
    re.compile(
        r"(?s)Encountered error while reading file (?P<path>\S+?)\. .*?(CRC checksum verification failed|ChecksumException)"
    ): "{path}: a file of a table is damaged: its content does not fit its checksum. Restore it, or run the job that wrote the table with"
    " --force.",
    re.compile(
        r"SparkContext was shut down|cancelled because SparkContext"
    ): f"Spark was stopped while jobs ran. {AGAIN}",
}


def sentence(error: BaseException) -> str | None:
    """The sentence for an exception that came through the JVM, None for one that the surroundings are not to blame for."""
    if _jvm_has_ended():
        return _JVM_HAS_ENDED
    text = getattr(error, "_stackTrace", None) or str(error)
    for pattern, told in _SENTENCES.items():
        found = pattern.search(text)
        if found:
            return told.format(**{name: value.rstrip(" .;") for name, value in found.groupdict().items()})
    return None


def _jvm_has_ended() -> bool:
    """Whether there was one and it answers no more; an exception alone may come of another connection."""
    if SparkContext._jvm is None:
        return False
    try:
        SparkContext._jvm.System.nanoTime()
    except (Py4JNetworkError, ConnectionError):
        return True
    return False

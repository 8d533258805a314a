"""NVIDIA's RAPIDS plugin for Spark: the locked jar, and the versions of Spark that it was built for."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pyspark

from jobs import jars
from transforms.errors import ConfigError

# One folder of classes for each version: `spark420` for Spark 4.2.0; `spark400db173` is a vendor's own.
_VERSION = re.compile(r"spark(\d)(\d)(\d+)/")


def ensure() -> Path:
    """The jar, fetched where it is not there yet.

    Raises:
        JarError: it cannot be had.
        ConfigError: it was not built for the Spark that is installed.
    """
    (jar,) = jars.ensure("gpu")
    require(jar, pyspark.__version__)
    return jar


def require(jar: Path, spark: str) -> None:
    """Make sure that the jar was built for a version of Spark: with another one it stops a session by a traceback.

    Raises:
        ConfigError: it was not.
    """
    with zipfile.ZipFile(jar) as archive:
        found = {match.groups() for name in archive.namelist() if (match := _VERSION.match(name))}
    versions = sorted((tuple(map(int, parts)) for parts in found), reverse=True)
    if spark not in (texts := [".".join(map(str, version)) for version in versions]):
        raise ConfigError(
            f"gpu-plan: expected NVIDIA's plugin for Spark {spark}, found {jar.name}, which is for {', '.join(texts) or 'none'}."
            " Lock a version that has it in conf/jars.lock, or install a Spark that it has."
        )

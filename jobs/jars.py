"""The jars that sessions use: `conf/jars.lock` -> verified files in a cache folder.

Sessions get these files as `spark.jars`, so that they start without network. `python -m jobs.jars [GROUP...]` fills the cache
and prints the paths, separated by commas, as `spark-submit --jars` takes them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import SparkConf
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway

from transforms.errors import MillraceError

LOCK = Path(str(resources.files("conf") / "jars.lock"))
IVY_SETTINGS = Path(str(resources.files("conf") / "ivysettings.xml"))


class JarError(MillraceError):
    """A locked jar cannot be had, or its file is not the one that was locked."""


@dataclass(frozen=True)
class Jar:
    """One line of the lock: Maven coordinates and the sha256 of the file."""

    group: str
    coordinates: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name that Spark's resolver gives the file: `org_artifact-version.jar`."""
        organisation, artifact, version = self.coordinates.split(":")
        return f"{organisation}_{artifact}-{version}.jar"


def cache_folder() -> Path:
    """Where jars are kept: `$MILLRACE_CACHE`, else `$XDG_CACHE_HOME/millrace`, else `~/.cache/millrace`; in `jars/` of it."""
    if chosen := os.environ.get("MILLRACE_CACHE"):
        return Path(chosen) / "jars"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millrace" / "jars"


def locked(group: str, lock: Path = LOCK) -> list[Jar]:
    """The jars of one group, in the order of the lock file.

    Raises:
        JarError: there is no such group, or a line is not `group  organisation:artifact:version  sha256`.
    """
    jars = []
    for number, line in enumerate(lock.read_text().splitlines(), 1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        if len(fields) != 3 or fields[1].count(":") != 2 or len(fields[2]) != 64:
            raise JarError(
                f"{lock.name} line {number}: expected `group  organisation:artifact:version  sha256`, found {line!r}."
            )
        jars.append(Jar(*fields))
    if group not in {jar.group for jar in jars}:
        raise JarError(
            f"{lock.name}: expected a group {group!r}, found only {', '.join(sorted({jar.group for jar in jars}))}."
        )
    return [jar for jar in jars if jar.group == group]


def ensure(group: str = "delta", cache: Path | None = None, *, lock: Path = LOCK) -> list[Path]:
    """Verified local files of one group. Those in the cache need neither network nor a JVM; the rest is resolved at once.

    Raises:
        JarError: an artifact cannot be resolved, or a file does not have its locked sha256.
    """
    folder = cache or cache_folder()
    jars = locked(group, lock)
    missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
    if missing:
        _resolve(missing, folder)
    wrong = [(jar, found) for jar in jars if (found := sha256(folder / jar.file_name)) != jar.sha256]
    if wrong:
        raise JarError(
            [
                f"{folder / jar.file_name}: expected sha256 {jar.sha256} for {jar.coordinates}, found {found}. Remove the file;"
                " the next start fetches it again."
                for jar, found in wrong
            ]
        )
    return [folder / jar.file_name for jar in jars]


def sha256(file: Path) -> str:
    """The digest of a file, in hexadecimal as in the lock."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _resolve(jars: Sequence[Jar], folder: Path) -> None:
    """Download with the resolver that Spark ships, in one call, and move the files into the cache.

    Not transitive and without POMs: exactly the locked artifacts. Files are verified before they are moved, each by an
    atomic rename, so that a killed or concurrent call leaves no half file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".resolve-") as ivy:
        _run_resolver([jar.coordinates for jar in jars], ivy)
        files = [Path(ivy, "jars", jar.file_name) for jar in jars]
        wrong = [(jar, found) for jar, file in zip(jars, files, strict=True) if (found := sha256(file)) != jar.sha256]
        if wrong:
            raise JarError(
                [
                    f"{jar.coordinates}: expected a file with sha256 {jar.sha256}, the repository serves one with {found}. Nothing"
                    " was kept; check which repository is asked."
                    for jar, found in wrong
                ]
            )
        for jar, file in zip(jars, files, strict=True):
            file.replace(folder / jar.file_name)


def _run_resolver(coordinates: Sequence[str], ivy: str) -> None:
    """Fill `ivy`/jars. Uses `spark.jars.ivySettings` of spark-defaults.conf where a company names its own mirror there."""
    report = Path(ivy, "report")
    with report.open("wb") as stream, java_starts():
        # The resolver reports to both streams; standard output belongs to the caller.
        streams = {"stdout": subprocess.DEVNULL, "stderr": stream}
        gateway = launch_gateway(SparkConf(loadDefaults=False), popen_kwargs=streams)  # type: ignore[no-untyped-call]
    try:
        jvm = gateway.jvm
        if (bundle := os.environ.get("SSL_CERT_FILE")) and Path(bundle).is_file():
            _trust(jvm, bundle)
        settings = jvm.org.apache.spark.SparkConf().get("spark.jars.ivySettings", str(IVY_SETTINGS))
        jvm.org.apache.spark.util.DependencyUtils.resolveMavenDependencies(
            False, "", ",".join(coordinates), "", ivy, jvm.scala.Option.apply(settings)
        )
    except Py4JJavaError as error:
        raise JarError(
            f"{', '.join(coordinates)}: cannot be resolved with {settings}: {_cause(report) or error.java_exception.getMessage()}."
            " Check the network (JAVA_TOOL_OPTIONS takes -Dhttps.proxyHost, SSL_CERT_FILE the authorities of your network), or name"
            " a mirror's settings as spark.jars.ivySettings in spark-defaults.conf."
        ) from error
    finally:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait()


def _cause(report: Path) -> str | None:
    """Why a server could not be asked; the resolver's own exception says "not found" whatever the reason."""
    lines = [line.strip() for line in report.read_text(errors="replace").splitlines()]
    return next((line.rstrip(".") for line in lines if " error at url " in line or line.startswith("Host ")), None)


def _trust(jvm: Any, bundle: str) -> None:
    """Let the JVM trust the authorities of a PEM file besides its own, as Python, curl and uv do for SSL_CERT_FILE.

    Java keeps a list of its own, which lacks the authority of a network that inspects TLS.
    """
    algorithm = jvm.javax.net.ssl.TrustManagerFactory.getDefaultAlgorithm()
    own = jvm.javax.net.ssl.TrustManagerFactory.getInstance(algorithm)
    store = jvm.java.security.KeyStore.getInstance(jvm.java.security.KeyStore.getDefaultType())
    own.init(None)
    store.load(None, None)
    with_bundle = jvm.java.security.cert.CertificateFactory.getInstance("X.509").generateCertificates(
        jvm.java.io.ByteArrayInputStream(Path(bundle).read_bytes())
    )
    for number, certificate in enumerate([*own.getTrustManagers()[0].getAcceptedIssuers(), *with_bundle]):
        store.setCertificateEntry(str(number), certificate)
    both = jvm.javax.net.ssl.TrustManagerFactory.getInstance(algorithm)
    both.init(store)
    context = jvm.javax.net.ssl.SSLContext.getInstance("TLS")
    context.init(None, both.getTrustManagers(), None)
    jvm.javax.net.ssl.SSLContext.setDefault(context)


@contextmanager
def java_starts() -> Iterator[None]:
    """Around what starts a JVM: says in a sentence that it did not start."""
    try:
        yield
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
        raise MillraceError(
            "Java did not start. Expected Java 17 or 21 as JAVA_HOME or on the PATH, and as much memory as the environment's"
            " driver_memory says; `millrace doctor` says what was found."
        ) from error


def main(groups: Sequence[str]) -> int:
    """Fill the cache and print the paths; returns the exit code."""
    try:
        paths = [path for group in groups or ["delta"] for path in ensure(group)]
    except MillraceError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(",".join(str(path) for path in paths) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

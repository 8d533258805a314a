"""Locked jars: found in the cache, fetched from a repository on this disk, refused when they are not the locked ones."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from jobs import jars
from transforms.errors import MillraceError

CONTENT = b"the bytes of a jar"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
THING = "org.example_thing-1.0.jar"


def lock_file(folder: Path, *lines: str) -> Path:
    file = folder / "jars.lock"
    file.write_text("# a comment\n\n" + "\n".join(lines) + "\n")
    return file


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven repository on disk with one artifact, named in spark-defaults.conf as a company would name its mirror."""
    root = tmp_path / "repository"
    file = root / "org/example/thing/1.0/thing-1.0.jar"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    name_mirror(tmp_path, root.as_uri(), monkeypatch)
    return root


def name_mirror(folder: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = folder / "ivy.xml"
    settings.write_text(
        '<ivysettings><settings defaultResolver="mirror"/><resolvers>'
        f'<ibiblio name="mirror" root="{root}" m2compatible="true" usepoms="false"/></resolvers></ivysettings>'
    )
    configuration = folder / "spark-conf"
    configuration.mkdir(exist_ok=True)
    (configuration / "spark-defaults.conf").write_text(f"spark.jars.ivySettings {settings}\n")
    monkeypatch.setenv("SPARK_CONF_DIR", str(configuration))


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), today, today + timedelta(days=2)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(built.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return public, private


@pytest.fixture
def served(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same repository behind TLS with an authority that nobody knows; returns the authority's certificate."""
    public, private = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing: a failed test should show its own output only."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(repository)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    name_mirror(tmp_path, f"https://localhost:{server.server_port}", monkeypatch)
    yield public
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever starts a JVM fails."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "no-java"))


@pytest.mark.quick
def test_jars_in_the_cache_need_no_jvm(tmp_path: Path, no_java: None) -> None:
    """Verified files are returned in the order of the lock; nothing is started."""
    other = hashlib.sha256(b"other").hexdigest()
    lock = lock_file(
        tmp_path, f"a org.example:thing:1.0 {DIGEST}", f"b x:y:1 {DIGEST}", f"a org.example:other:2.0 {other}"
    )
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / THING).write_bytes(CONTENT)
    (cache / "org.example_other-2.0.jar").write_bytes(b"other")

    assert jars.ensure("a", cache, lock=lock) == [cache / THING, cache / "org.example_other-2.0.jar"]


@pytest.mark.quick
def test_every_changed_file_in_the_cache_is_named(tmp_path: Path, no_java: None) -> None:
    """A file that differs from the lock is never given to Spark."""
    lock = lock_file(tmp_path, f"a org.example:thing:1.0 {DIGEST}", f"a org.example:other:2.0 {DIGEST}")
    for name in (THING, "org.example_other-2.0.jar"):
        (tmp_path / name).write_bytes(b"changed")
    changed = hashlib.sha256(b"changed").hexdigest()

    with pytest.raises(jars.JarError) as caught:
        jars.ensure("a", tmp_path, lock=lock)

    assert caught.value.problems == tuple(
        f"{tmp_path}/org.example_{name}.jar: expected sha256 {DIGEST} for {coordinates}, found {changed}."
        " Remove the file; the next start fetches it again."
        for name, coordinates in (("thing-1.0", "org.example:thing:1.0"), ("other-2.0", "org.example:other:2.0"))
    )


@pytest.mark.quick
def test_java_that_does_not_start_is_a_sentence(tmp_path: Path, no_java: None) -> None:
    """No Java is the user's to mend, not a traceback."""
    lock = lock_file(tmp_path, f"a org.example:thing:1.0 {DIGEST}")

    with pytest.raises(MillraceError) as caught:
        jars.ensure("a", tmp_path / "cache", lock=lock)

    assert str(caught.value) == (
        "Java did not start. Expected Java 17 or 21 as JAVA_HOME or on the PATH, and as much memory as the environment's"
        " driver_memory says; `millrace doctor` says what was found."
    )


@pytest.mark.parametrize(
    ("line", "group", "message"),
    [
        ("a x:y", "a", "jars.lock line 3: expected `group  organisation:artifact:version  sha256`, found 'a x:y'."),
        (f"a x:y:1 {DIGEST}", "gpu", "jars.lock: expected a group 'gpu', found only a."),
    ],
)
@pytest.mark.quick
def test_what_is_wrong_with_the_lock_is_said(tmp_path: Path, line: str, group: str, message: str) -> None:
    """A malformed line is named by its number, an unknown group beside the known ones."""
    with pytest.raises(jars.JarError) as caught:
        jars.locked(group, lock_file(tmp_path, line))

    assert str(caught.value) == message


@pytest.mark.quick
def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """MILLRACE_CACHE comes before XDG_CACHE_HOME, which comes before the home folder."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MILLRACE_CACHE", raising=False)
    assert jars.cache_folder() == Path("/home/someone/.cache/millrace/jars")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/someone")
    assert jars.cache_folder() == Path("/var/cache/someone/millrace/jars")
    monkeypatch.setenv("MILLRACE_CACHE", "/big/disk")
    assert jars.cache_folder() == Path("/big/disk/jars")


def test_missing_jars_are_fetched_once(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call fetches from the repository and leaves nothing but the jar; the second needs no repository and no JVM."""
    lock = lock_file(tmp_path, f"a org.example:thing:1.0 {DIGEST}")
    cache = tmp_path / "cache"

    fetched = jars.ensure("a", cache, lock=lock)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "no-java"))

    assert fetched == jars.ensure("a", cache, lock=lock) == [cache / THING]
    assert [(file.name, file.read_bytes()) for file in cache.iterdir()] == [(THING, CONTENT)]


def test_a_repository_with_another_file_is_refused(tmp_path: Path, repository: Path) -> None:
    """Nothing that fails its check reaches the cache."""
    locked = hashlib.sha256(b"another").hexdigest()
    lock = lock_file(tmp_path, f"a org.example:thing:1.0 {locked}")
    cache = tmp_path / "cache"

    with pytest.raises(jars.JarError) as caught:
        jars.ensure("a", cache, lock=lock)

    assert str(caught.value) == (
        f"org.example:thing:1.0: expected a file with sha256 {locked}, the repository serves one with {DIGEST}."
        " Nothing was kept; check which repository is asked."
    )
    assert list(cache.iterdir()) == []


def test_an_artifact_that_cannot_be_had_is_named(tmp_path: Path, repository: Path) -> None:
    """The message carries the artifact, the settings in use and what to do."""
    lock = lock_file(tmp_path, f"a org.example:nowhere:1.0 {DIGEST}")

    with pytest.raises(jars.JarError) as caught:
        jars.ensure("a", tmp_path / "cache", lock=lock)

    assert str(caught.value) == (
        f"org.example:nowhere:1.0: cannot be resolved with {tmp_path}/ivy.xml:"
        " [unresolved dependency: org.example#nowhere;1.0: not found]."
        " Check the network (JAVA_TOOL_OPTIONS takes -Dhttps.proxyHost, SSL_CERT_FILE the authorities of your network), or name"
        " a mirror's settings as spark.jars.ivySettings in spark-defaults.conf."
    )


def test_the_authorities_of_the_network_are_trusted(
    tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository behind an unknown authority is refused with that reason; SSL_CERT_FILE makes the authority known."""
    lock = lock_file(tmp_path, f"a org.example:thing:1.0 {DIGEST}")
    cache = tmp_path / "cache"
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    with pytest.raises(
        jars.JarError, match=r"Server access error at url https://localhost.*unable to find valid certification path"
    ):
        jars.ensure("a", cache, lock=lock)
    monkeypatch.setenv("SSL_CERT_FILE", str(served))

    assert jars.ensure("a", cache, lock=lock) == [cache / THING]
